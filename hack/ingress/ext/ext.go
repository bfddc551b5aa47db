// Package ext stands for a module which Traefik keeps in a folder of its repository, where its paid edition adds to the
// configuration, and which no module proxy has. Both types are empty there, too.
package ext

// HTTP is what is added to the HTTP part of a configuration: nothing.
type HTTP struct{}

// Router is what is added to a router: nothing.
type Router struct{}
