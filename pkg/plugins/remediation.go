package plugins

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// remediations are those of errors that the host's set-up causes.
var remediations = []struct {
	errs []error
	text string
}{
	{
		[]error{unix.EROFS},
		"use the folder that your distribution has for plugins (the chart's cni.binDir), and set it in the container runtime's config (bin_dir)",
	},
	{
		[]error{unix.ENOSPC, unix.EDQUOT},
		"make room: the plugins take 30 MB",
	},
	{
		[]error{unix.EACCES, unix.EPERM},
		"be root; where the folder is another user's, have CAP_DAC_OVERRIDE too (the chart's dacOverride); under SELinux, a type that may write there (seLinuxOptions)",
	},
}

func explain(err error) error {
	for _, a := range remediations {
		for _, cause := range a.errs {
			if errors.Is(err, cause) {
				return fmt.Errorf("%w (%s)", err, a.text)
			}
		}
	}
	return err
}
