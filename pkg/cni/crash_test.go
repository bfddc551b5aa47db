package cni

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/plainroute/plainroute/test/testutil"
)

func TestMain(m *testing.M) {
	if os.Getenv(crashVariable) != "" {
		fmt.Fprintln(os.Stderr, writeForever(Store{ConfDir: os.Getenv("CONF_DIR"), RunDir: os.Getenv("RUN_DIR")}))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// writeForever returns the first error of writing.
func writeForever(s Store) error {
	for n := 0; ; n++ {
		if err := s.Write(dualStack()); err != nil {
			return err
		}
		if n == 0 {
			fmt.Println("writing")
		}
	}
}

// crash kills a program that writes, at a random moment.
func crash(t *testing.T, s Store) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Env = append(os.Environ(), crashVariable+"=1", "CONF_DIR="+s.ConfDir, "RUN_DIR="+s.RunDir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	testutil.Must(t, err)
	testutil.Must(t, cmd.Start())
	if _, err := fmt.Fscanln(out, new(string)); err != nil {
		t.Fatal("the program does not write:", err)
	}
	time.Sleep(time.Duration(rand.IntN(3000)) * time.Microsecond)
	testutil.Must(t, cmd.Process.Kill())
	_ = cmd.Wait() // it was killed
}
