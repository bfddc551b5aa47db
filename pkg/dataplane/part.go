package dataplane

import "github.com/plainroute/plainroute/pkg/plan"

// A PartError is an error of Apply that says which part of this node it concerns.
type PartError struct {
	Kind plan.Kind
	Err  error
}

func (e *PartError) Error() string { return e.Err.Error() }
func (e *PartError) Unwrap() error { return e.Err }

// FailedKind returns the kind of the change that failed.
func (e *PartError) FailedKind() plan.Kind { return e.Kind }

// part marks an error, if there is one.
func part(kind plan.Kind, err error) error {
	if err == nil {
		return nil
	}
	return &PartError{kind, err}
}
