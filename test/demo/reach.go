package main

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/plainroute/plainroute/test/netlab"
	"github.com/plainroute/plainroute/test/nodelab"
)

// seen is the result of three probes over one family.
type seen struct {
	source netip.Addr
	rtt    time.Duration
}

// probe sends TCP, UDP and a ping and requires that the receiver sees the packets come from want.
func probe(ctx context.Context, from *netlab.Host, to, want netip.Addr) (seen, error) {
	for _, ask := range []struct {
		protocol string
		probe    func(context.Context, netip.Addr) (netlab.Reply, error)
	}{{"TCP", from.TCP}, {"UDP", from.UDP}} {
		sighting, err := ask.probe(ctx, to)
		if err != nil {
			return seen{}, err
		}
		if sighting.Source != want {
			return seen{}, fmt.Errorf("%s from %s to %s over %s is seen as %s, not as %s",
				from.Name, want, to, ask.protocol, sighting.Source, want)
		}
	}
	rtt, err := from.Ping(ctx, to)
	return seen{source: want, rtt: rtt}, err
}

// reachPair probes over both families and requires that the source is from's own address.
func (s *story) reachPair(ctx context.Context, from, to *netlab.Host) error {
	var results []seen
	for _, address := range to.Addrs() {
		result, err := probe(ctx, from, address, from.Addr(address))
		if err != nil {
			return err
		}
		results = append(results, result)
	}
	s.passed("%-7s -> %-7s  seen as %-12s and %-18s  tcp udp ping  %s %s",
		from.Name, to.Name, results[0].source, results[1].source,
		milliseconds(results[0].rtt), milliseconds(results[1].rtt))
	return nil
}

func (s *story) reachPods(ctx context.Context) error {
	for _, from := range s.pods {
		for _, to := range s.pods {
			if from == to {
				continue
			}
			if err := s.reachPair(ctx, from.Host, to.Host); err != nil {
				return err
			}
		}
	}
	return nil
}

// reachFromNodes includes the node's own pods: there the source is the bridge's address, the gateway of its pods. To pods
// behind a tunnel it is the tunnel's address.
func (s *story) reachFromNodes(ctx context.Context) error {
	for _, node := range s.nodes {
		for _, pod := range s.pods {
			var err error
			switch {
			case pod.Node == node:
				err = s.reachFromDevice(ctx, node, pod, "bridge")
			case pod.Node.LAN != node.LAN:
				err = s.reachFromDevice(ctx, node, pod, "tunnel")
			default:
				err = s.reachPair(ctx, node.Host, pod.Host)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// reachFromDevice requires the address of a device of the node as source: the first of the pod subnet is the tunnel's, and
// the next one the bridge's.
func (s *story) reachFromDevice(ctx context.Context, node *nodelab.Node, pod *nodelab.Pod, device string) error {
	var sources []netip.Addr
	for i, address := range pod.Addrs() {
		source := node.Subnets[i].Addr()
		if device == "bridge" {
			source = source.Next()
		}
		if _, err := probe(ctx, node.Host, address, source); err != nil {
			return err
		}
		sources = append(sources, source)
	}
	s.passed("%-7s -> %-7s  seen as %-12s and %-18s  tcp udp ping  (its %s)", node.Name, pod.Name, sources[0], sources[1], device)
	return nil
}

func (s *story) reachOutside(ctx context.Context) error {
	outside := s.cluster.Outside
	for _, pod := range s.pods {
		for _, address := range outside.Addrs() {
			result, err := probe(ctx, pod.Host, address, pod.Node.Addr(address))
			if err != nil {
				return err
			}
			s.passed("%-7s -> %-14s  seen as %s, which is %s", pod.Name, address, result.source, pod.Node.Name)
		}
	}
	return nil
}
