package dataplane

import (
	"testing"

	"golang.org/x/sys/unix"
)

// A Conn sends no message that changes something.
func TestConnOnlyReads(t *testing.T) {
	newMachine(t)
	c, err := OpenConn()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, kind := range []uint16{unix.RTM_NEWLINK, unix.RTM_DELROUTE, unix.RTM_SETLINK} {
		if err := c.Get(kind, 0, make([]byte, unix.SizeofIfInfomsg), nil); err == nil {
			t.Errorf("a message of type %d was sent", kind)
		}
	}
	links := 0
	err = c.Get(unix.RTM_GETLINK, unix.NLM_F_DUMP, make([]byte, unix.SizeofIfInfomsg), func(uint16, []byte) { links++ })
	if err != nil || links == 0 {
		t.Errorf("got %d links, %v", links, err)
	}
}
