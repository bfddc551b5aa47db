// Package other uses package example.
package other

import "example.org/example"

// Both is example.Unseen.
func Both(a, b bool) bool { return example.Unseen(a, b) }
