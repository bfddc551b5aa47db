package plugins

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// errNoExec is a folder on a file system that is mounted with noexec.
type errNoExec struct{ path string }

func (e errNoExec) Error() string {
	return fmt.Sprintf("%s is on a file system that is mounted with noexec, so no plugin could run from there: "+
		"remount it with exec, or use another folder, and tell the container runtime (bin_dir)", e.path)
}

// advice is what to do about errors that the host's set-up causes.
var advice = []struct {
	errs []error
	text string
}{
	{
		[]error{unix.EROFS},
		"use the folder that your distribution has for plugins (the chart's cni.binDir), and tell the container runtime (bin_dir)",
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

// explain adds what to do to an error, where that is known.
func explain(err error) error {
	for _, a := range advice {
		for _, cause := range a.errs {
			if errors.Is(err, cause) {
				return fmt.Errorf("%w (%s)", err, a.text)
			}
		}
	}
	return err
}
