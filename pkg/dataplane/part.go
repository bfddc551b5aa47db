package dataplane

import "github.com/plainroute/plainroute/pkg/plan"

// A PartError is an error of Apply that says which part of this node it concerns.
type PartError struct {
	Key plan.Key
	Err error
}

func (e *PartError) Error() string { return e.Err.Error() }
func (e *PartError) Unwrap() error { return e.Err }

// FailedKey returns what could not be changed.
func (e *PartError) FailedKey() plan.Key { return e.Key }

// part marks an error with what it concerns, if there is one.
func part(o plan.Object, err error) error {
	if err == nil {
		return nil
	}
	return &PartError{plan.Change{Object: o}.Key(), err}
}
