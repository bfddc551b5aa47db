package integration

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plainroute/plainroute/test/netlab"
	"github.com/plainroute/plainroute/test/nodelab"
)

// happening is a kind of event that an observer distinguishes.
type happening string

const (
	routeAdded     happening = "route"
	tableAdded     happening = "nft table"
	ruleAdded      happening = "nft rule"
	configAppeared happening = "CNI config"
)

type occurrence struct {
	what   happening
	detail string
}

func (o occurrence) String() string { return strings.TrimSpace(string(o.what) + " " + o.detail) }

type occurrences []occurrence

// String counts equal neighbors: "3 x route, nft table, CNI config x".
func (all occurrences) String() string {
	var parts []string
	for i := 0; i < len(all); {
		next := i
		for next < len(all) && all[next] == all[i] {
			next++
		}
		parts = append(parts, fmt.Sprintf("%d x %s", next-i, all[i]))
		i = next
	}
	return strings.Join(parts, ", ")
}

// observer reads, in one loop, a node's notices of routes and of nftables, and its CNI folder's of new names. Of what is
// found at one look the kernel's notices count as earlier than the folder's: what comes at a later look than the
// config has come too late for certain.
type observer struct {
	routes, tables, folder int
}

func newObserver(node *nodelab.Node) (*observer, error) {
	w := &observer{routes: -1, tables: -1, folder: -1}
	err := node.Do(func() (err error) {
		if w.routes, err = subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE); err != nil {
			return err
		}
		w.tables, err = subscribe(unix.NETLINK_NETFILTER, unix.NFNLGRP_NFTABLES)
		return err
	})
	if err != nil {
		return nil, err
	}
	if w.folder, err = unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK); err != nil {
		return nil, fmt.Errorf("opening inotify: %w", err)
	}
	if _, err := unix.InotifyAddWatch(w.folder, node.ConfDir, unix.IN_MOVED_TO); err != nil {
		return nil, fmt.Errorf("watching %s: %w", node.ConfDir, err)
	}
	return w, nil
}

// subscribe opens a netlink socket in the thread's network namespace and joins groups.
func subscribe(family int, groups ...int) (int, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, family)
	if err != nil {
		return -1, fmt.Errorf("opening netlink family %d: %w", family, err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return -1, fmt.Errorf("binding netlink family %d: %w", family, err)
	}
	for _, group := range groups {
		if err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, group); err != nil {
			return -1, fmt.Errorf("joining group %d of netlink family %d: %w", group, family, err)
		}
	}
	return fd, nil
}

func (w *observer) close() {
	for _, fd := range []int{w.routes, w.tables, w.folder} {
		unix.Close(fd)
	}
}

// watch returns what happened until settle after the config's appearance.
func (w *observer) watch(ctx context.Context, settle time.Duration) (occurrences, error) {
	var seen occurrences
	end, _ := ctx.Deadline()
	settling := false
	for time.Now().Before(end) {
		ready := []unix.PollFd{
			{Fd: int32(w.routes), Events: unix.POLLIN},
			{Fd: int32(w.tables), Events: unix.POLLIN},
			{Fd: int32(w.folder), Events: unix.POLLIN},
		}
		if _, err := unix.Poll(ready, 20); err != nil && !errors.Is(err, unix.EINTR) {
			return nil, fmt.Errorf("waiting for notices: %w", err)
		}
		noticed, err := w.look()
		if err != nil {
			return nil, err
		}
		seen = append(seen, noticed...)
		if len(noticed) > 0 && noticed[len(noticed)-1].what == configAppeared && !settling {
			settling, end = true, time.Now().Add(settle)
		}
	}
	if !settling {
		return nil, fmt.Errorf("waiting for the CNI config: %w, having seen %s", context.DeadlineExceeded, seen)
	}
	return seen, nil
}

// look reads all that is there now. The folder is read first, and reported last: a notification
// that the kernel queued between the two reads may be later than the config, and is then recorded
// as earlier; never the other way round.
func (w *observer) look() (occurrences, error) {
	folder, err := drain(w.folder, folderNames)
	if err != nil {
		return nil, err
	}
	tables, err := drain(w.tables, tableNotices)
	if err != nil {
		return nil, err
	}
	routes, err := drain(w.routes, routeNotices)
	if err != nil {
		return nil, err
	}
	return append(append(tables, routes...), folder...), nil
}

func drain(fd int, parse func([]byte) (occurrences, error)) (occurrences, error) {
	var all occurrences
	buffer := make([]byte, 1<<16)
	for {
		size, err := unix.Read(fd, buffer)
		if errors.Is(err, unix.EAGAIN) {
			return all, nil
		}
		if err != nil {
			return nil, fmt.Errorf("reading notices: %w", err)
		}
		found, err := parse(buffer[:size])
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
}

// routeNotices keeps the agent's new routes. The protocol is the sixth byte of struct rtmsg (linux/rtnetlink.h).
func routeNotices(data []byte) (occurrences, error) {
	return notices(data, func(m syscall.NetlinkMessage) (happening, bool) {
		return routeAdded, m.Header.Type == unix.RTM_NEWROUTE && len(m.Data) > 5 && m.Data[5] == netlab.Protocol
	})
}

// tableNotices keeps new tables and rules, whose message types are NFT_MSG_NEWTABLE (0) and
// NFT_MSG_NEWRULE (6) of subsystem 10 (linux/netfilter/nfnetlink.h). The agent alone makes tables
// on a node of ours.
func tableNotices(data []byte) (occurrences, error) {
	const subsystem = 10 << 8
	kinds := map[uint16]happening{subsystem: tableAdded, subsystem | 6: ruleAdded}
	return notices(data, func(m syscall.NetlinkMessage) (happening, bool) {
		what, known := kinds[m.Header.Type]
		return what, known
	})
}

func notices(data []byte, classify func(syscall.NetlinkMessage) (happening, bool)) (occurrences, error) {
	messages, err := syscall.ParseNetlinkMessage(data)
	if err != nil {
		return nil, fmt.Errorf("parsing notices: %w", err)
	}
	var all occurrences
	for _, message := range messages {
		if what, keep := classify(message); keep {
			all = append(all, occurrence{what: what})
		}
	}
	return all, nil
}

// folderNames keeps the names that a container runtime would look at (struct inotify_event: 16 bytes, then the name).
func folderNames(data []byte) (occurrences, error) {
	var all occurrences
	for len(data) >= unix.SizeofInotifyEvent {
		size := int(binary.NativeEndian.Uint32(data[12:16]))
		name := string(bytes.TrimRight(data[unix.SizeofInotifyEvent:unix.SizeofInotifyEvent+size], "\x00"))
		if strings.HasSuffix(name, ".conflist") || strings.HasSuffix(name, ".conf") || strings.HasSuffix(name, ".json") {
			all = append(all, occurrence{what: configAppeared, detail: name})
		}
		data = data[unix.SizeofInotifyEvent+size:]
	}
	return all, nil
}
