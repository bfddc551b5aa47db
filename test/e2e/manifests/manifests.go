// Package manifests contains the objects that the e2e tests install beside the product: the
// cluster's DNS and an Ingress controller.
package manifests

import _ "embed"

// CoreDNS is the cluster's DNS, as YAML for `kubectl apply -f -`: the Service kube-dns in
// kube-system has the addresses 10.96.0.10 and fd00:10:96::a. The cluster must be dual-stack, with
// its Services in 10.96.0.0/16 and fd00:10:96::/112. The image is localhost/coredns:1.
//
//go:embed coredns.yaml
var CoreDNS string

// Ingress is an Ingress controller, as YAML: namespace ingress, IngressClass test, NodePort 30080 for HTTP. Its image is
// localhost/ingress:1.
//
//go:embed ingress.yaml
var Ingress string
