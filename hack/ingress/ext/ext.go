// Package ext stands for a module which Traefik keeps in a folder of its repository, where its paid edition adds to the
// configuration, and which no module proxy has. Both types are empty there, too.
package ext

// HTTP adds nothing to the HTTP part of a configuration.
type HTTP struct{}

// Router adds nothing to a router.
type Router struct{}
