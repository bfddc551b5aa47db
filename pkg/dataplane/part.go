package dataplane

import "github.com/plainroute/plainroute/pkg/plan"

// A PartError is an error of Apply with the key of its object.
type PartError struct {
	Key plan.Key
	Err error
}

func (e *PartError) Error() string { return e.Err.Error() }
func (e *PartError) Unwrap() error { return e.Err }

// FailedKey returns the key of the object that could not be changed.
func (e *PartError) FailedKey() plan.Key { return e.Key }

// part adds the object's key to an error that is not nil.
func part(o plan.Object, err error) error {
	if err == nil {
		return nil
	}
	return &PartError{plan.Change{Object: o}.Key(), err}
}
