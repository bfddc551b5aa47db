package faults

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/test/apiserver"
	"github.com/plainroute/plainroute/test/inject"
	"github.com/plainroute/plainroute/test/nodelab"
)

const (
	// returnLimit bounds the first change after the API server's return, in a cluster of up to 1,000 Nodes.
	returnLimit = 5 * time.Second
	// waits is the answer to every failure of an API server.
	waits = "all stays; the next change is made when it answers again"
)

func apiFaults() []fault {
	return []fault{
		apiKilled(),
		apiPaused(),
		{
			name: "one route deleted while the API server is away", answer: "it is put back",
			prepare: (*lab).useGate,
			inject: func(l *lab) {
				l.gate.Shut()
				l.broken()
				l.must(l.node.DeleteRoute(l.peer.Subnets[0]))
			},
			times: 10, within: healLimit, loses: untilRepaired,
		},
		startedWithout(),
		misbehaving("answers 500", inject.Refused(http.StatusInternalServerError, 0), 3),
		misbehaving("answers 401, it does not know us any more", inject.Refused(http.StatusUnauthorized, 0), 3),
		misbehaving("answers 403, we may not read Nodes any more", inject.Refused(http.StatusForbidden, 0), 3),
		misbehaving("answers 429 and asks to come back in a second", inject.Refused(http.StatusTooManyRequests, 1), 2),
		misbehaving("answers 503", inject.Refused(http.StatusServiceUnavailable, 0), 3),
		misbehaving("answers 410, resource version too old", inject.Refused(http.StatusGone, 0), 3),
		misbehaving("ends watches with resource version too old", inject.Expired, 3),
		misbehaving("cuts streams off in the middle of an event", inject.Truncated(700), 3),
		misbehaving("cuts lists off in the middle", inject.WithoutStreaming(inject.Truncated(700)), 4),
		misbehaving("sends garbage", inject.Garbled, 3),
		misbehaving("sends garbage for lists", inject.WithoutStreaming(inject.Garbled), 4),
		misbehaving("begins a watch and sends nothing", inject.Silent, 1),
		misbehaving("takes requests and never answers", inject.Hanging, 1),
		forgotten(),
	}
}

// misbehaving is an API server that fails in one way for as long as some requests take.
func misbehaving(how string, injected inject.Fault, requests int) fault {
	return fault{
		name: "the API server " + how, answer: waits,
		prepare: (*lab).useProxy,
		inject: func(l *lab) {
			l.proxy.Inject(injected)
			l.must(l.proxy.AwaitRequests(l.within(limit), requests))
			l.run(after)
			l.must(l.checkOurs())
			l.join()
			l.proxy.Inject(nil)
			l.repairable()
		},
		repaired: (*lab).joinedRouted, within: returnLimit, loses: nothing,
	}
}

// outage is how long the API server is away.
const outage = 60 * time.Second

// apiKilled is the one fault that the proxy can't show: connections break, and the server that returns has to fill its
// cache first.
func apiKilled() fault {
	return fault{
		name:   "the API server killed for 60 s, an agent restarted and a route deleted meanwhile",
		answer: "all stays, also over the restart; the route is put back, by the restarted agent too",
		prepare: func(l *lab) {
			l.crowd = l.newcomers(1)
			l.createNodes(fakesOf(l.crowd)...)
		},
		inject: func(l *lab) {
			gone := l.crowd[0].subnets[0]
			l.must(l.node.AwaitRoute(l.within(limit), gone))
			l.must(l.pool.API.Kill())
			l.t.Cleanup(l.reviveAPIServer)
			back := time.Now().Add(outage)
			took, err := l.node.Heal(l.within(limit), gone)
			l.must(err)
			if bound := bound(healLimit); took > bound {
				l.t.Errorf("a route deleted meanwhile is back after %s; want %s", took, bound)
			}
			l.observe()
			l.must(l.peer.StopAgent(syscall.SIGTERM))
			l.must(l.peer.StartAgent(nodelab.AgentOptions{}))
			l.must(l.peer.WaitReady(l.within(limit)))
			_, err = l.peer.Heal(l.within(limit), gone)
			l.must(err)
			time.Sleep(time.Until(back))
			l.checkUnmoved()
			l.must(l.checkOurs())
			_, err = l.peer.CNIConfig()
			l.must(err)
			l.must(l.pool.API.Restart())
			l.must(l.pool.API.Await(l.within(limit)))
			l.repairable()
			l.join()
		},
		repaired: (*lab).joinedRouted, within: returnLimit, loses: nothing, alone: true, slow: true,
	}
}

// reviveAPIServer restores the API server for the faults after one that failed.
func (l *lab) reviveAPIServer() {
	if apiserver.Running() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if err := errors.Join(l.pool.API.Restart(), l.pool.API.Await(ctx)); err != nil {
		l.t.Error(err)
	}
}

// apiPaused is an API server whose connections stay open, and get no answers.
func apiPaused() fault {
	return fault{
		name: "the API server stopped for 20 s, its connections open", answer: waits,
		inject: func(l *lab) {
			// The faults after this one need an API server, even if this one fails.
			l.t.Cleanup(func() { l.must(l.pool.API.Resume()) })
			l.must(l.pool.API.Pause())
			time.Sleep(20 * time.Second)
			l.must(l.checkOurs())
			l.must(l.pool.API.Resume())
			l.must(l.pool.API.Await(l.within(limit)))
			l.repairable()
			l.join()
		},
		repaired: (*lab).joinedRouted, within: returnLimit, loses: nothing, alone: true, slow: true,
	}
}

// longWait is how long the API server is away for an agent that starts. A test in package
// controllers checks that the agent has no limit there: the manager's own is 2 s instead of 2
// minutes in that test (CacheSyncTimeout).
const longWait = 30 * time.Second

// startedWithout is an agent that starts while there is no API server.
func startedWithout() fault {
	return fault{
		name: "an agent started while the API server is away", answer: "it changes nothing and waits",
		prepare: (*lab).useGate,
		inject: func(l *lab) {
			l.must(l.node.StopAgent(syscall.SIGKILL))
			l.gate.Shut()
			l.observe()
			l.must(l.node.StartAgent(l.options))
			l.awaitReport(l.node, "", problem.APIUnavailable)
			l.join()
			time.Sleep(longWait)
			l.must(l.checkOurs())
			l.must(l.gate.Open())
			l.repairable()
		},
		repaired: func(l *lab) error {
			if err := l.joinedRouted(); err != nil {
				return err
			}
			return l.node.ready(l)
		},
		within: returnLimit, loses: nothing, slow: true,
	}
}

// ready returns why the node's agent is not ready.
func (m *machine) ready(l *lab) error {
	code, body, err := m.Get(l.t.Context(), "/readyz")
	if err == nil && code != http.StatusOK {
		return fmt.Errorf("%s is not ready: %s", m.Name, body)
	}
	return err
}

// forgotten is a connection that a load balancer has forgotten: nothing comes over it, and nothing closes it.
func forgotten() fault {
	return fault{
		name:    "the connection to the API server is forgotten by what is in between",
		answer:  "all stays; within 10 s without an answer the agent reconnects",
		prepare: (*lab).useGate,
		inject: func(l *lab) {
			l.gate.Forget()
			l.join()
			l.repairable()
		},
		repaired: (*lab).joinedRouted, within: 15 * time.Second, loses: nothing, slow: true,
	}
}

// listFaults are an API server that answers, and not with the truth.
func listFaults() []fault {
	isOther := func(l *lab) func(string) bool { return func(name string) bool { return name != l.node.Name } }
	everyone := func(*lab) func(string) bool { return func(string) bool { return true } }
	isUs := func(l *lab) func(string) bool { return func(name string) bool { return name == l.node.Name } }
	streamed := func(hidden inject.Fault) inject.Fault { return hidden }
	return []fault{
		untrue("an empty list", true, 0, everyone, inject.WithoutStreaming, problem.NodeMissing),
		untrue("an empty stream", true, 0, everyone, streamed, problem.NodeMissing),
		untrue("a list without our own Node", true, 0, isUs, inject.WithoutStreaming, problem.NodeMissing),
		untrue("a stream without our own Node", true, 0, isUs, streamed, problem.NodeMissing),
		untrue("a list that lost 13 of 13 peers", false, 12, isOther, inject.WithoutStreaming, problem.PruneHeld),
		untrue("a stream that lost 13 of 13 peers", false, 12, isOther, streamed, problem.PruneHeld),
		staleAfterRestart(isOther),
		heldAndFlushed(isOther),
		trulyGone("12 of 13 Nodes deleted while the API server does not answer", func(l *lab, leave func()) {
			l.proxy.Inject(inject.Hanging)
			leave()
			l.proxy.Inject(nil)
		}),
		trulyGone("Nodes deleted while the agent was away, and a list from the cache of its API server", func(l *lab, leave func()) {
			l.must(l.node.StopAgent(syscall.SIGTERM))
			l.proxy.Inject(inject.WithoutStreaming(nil))
			leave()
			l.must(l.node.StartAgent(l.options))
		}),
	}
}

// untrue is an API server that hides Nodes, with so many more than the peer there to hide, until the agent reports it.
func untrue(
	what string, everywhere bool, more int, hide func(*lab) func(string) bool,
	transport func(inject.Fault) inject.Fault, reason problem.Reason,
) fault {
	return fault{
		name: "the API server sends " + what, answer: "nothing is pruned, " + string(reason) + " is reported",
		prepare: func(l *lab) {
			l.useProxy()
			l.crowd = l.newcomers(more)
			l.createNodes(fakesOf(l.crowd)...)
		},
		inject: func(l *lab) {
			l.observe()
			l.proxy.Inject(transport(inject.Hidden(everywhere, hide(l))))
			l.awaitReport(l.node, "", reason)
			l.run(after)
			l.must(l.checkOurs())
			l.checkUnmoved(subnetsOf(l.crowd)...)
			l.join()
			l.proxy.Inject(nil)
			l.repairable()
		},
		repaired: (*lab).joinedRouted, within: returnLimit, loses: nothing,
	}
}

// staleAfterRestart is the worst of both: an agent without any state is served an old list from the
// cache.
func staleAfterRestart(hide func(*lab) func(string) bool) fault {
	f := untrue("an agent that starts a stale list from its cache", false, 0, hide, inject.WithoutStreaming, problem.PruneHeld)
	untilStart := f.inject
	f.inject = func(l *lab) {
		l.must(l.node.StopAgent(syscall.SIGTERM))
		l.must(os.Remove(filepath.Join(l.node.RunDir, "nodes")))
		l.proxy.Inject(inject.WithoutStreaming(inject.Hidden(false, hide(l))))
		l.must(l.node.StartAgent(l.options))
		untilStart(l)
	}
	return f
}

// heldAndFlushed is a second fault, of routes that are held because of the first.
func heldAndFlushed(hide func(*lab) func(string) bool) fault {
	return fault{
		name: "the API server sends a list that lost 13 of 13 peers, and then all of plainroute's routes are deleted", answer: "they are put back",
		prepare: func(l *lab) {
			l.useProxy()
			l.crowd = l.newcomers(12)
			l.createNodes(fakesOf(l.crowd)...)
		},
		inject: func(l *lab) {
			l.proxy.Inject(inject.WithoutStreaming(inject.Hidden(false, hide(l))))
			l.awaitReport(l.node, "", problem.PruneHeld)
			l.broken()
			l.flush(isOurs)
		},
		repaired: func(l *lab) error { return errors.Join(l.checkOurs(), l.crowdHas(2*len(l.crowd))) },
		within:   healLimit, loses: untilRepaired,
	}
}

// trulyGone are many Nodes that leave while the agent doesn't see it: the suspicious list is true.
func trulyGone(name string, unseen func(l *lab, leave func())) fault {
	return fault{
		name: name, answer: "their routes go, once a list from etcd has confirmed it",
		prepare: func(l *lab) {
			l.useProxy()
			l.crowd = l.newcomers(12)
			l.createNodes(fakesOf(l.crowd)...)
		},
		inject: func(l *lab) {
			l.await(func() error { return l.crowdHas(2 * len(l.crowd)) })
			l.observe()
			unseen(l, func() { l.must(inject.DeleteNodesIfPresent(l.within(limit), l.pool.Client(), fakesOf(l.crowd)...)) })
			l.repairable()
		},
		repaired: func(l *lab) error { return l.crowdHas(0) },
		finally:  func(l *lab) { l.checkUnmoved() },
		within:   returnLimit, loses: nothing,
	}
}
