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
		if whole, err := c.Get(kind, 0, make([]byte, unix.SizeofIfInfomsg), nil); whole || err == nil {
			t.Errorf("a message of type %d was sent: %t, %v", kind, whole, err)
		}
	}
	links := 0
	whole, err := c.Get(unix.RTM_GETLINK, unix.NLM_F_DUMP, make([]byte, unix.SizeofIfInfomsg), func(uint16, []byte) { links++ })
	if !whole || err != nil || links == 0 {
		t.Errorf("got %d links, %t, %v", links, whole, err)
	}
}
