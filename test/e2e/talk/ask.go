package talk

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

const (
	// askTimeout is above the 3 s after which the kernel gives up on a neighbor that doesn't
	// answer.
	askTimeout = 5 * time.Second
	// askAtOnce bounds how many questions are under way.
	askAtOnce = 16
	// answerLimit is far above the size of an Identity, and fits one packet.
	answerLimit = 1024
)

// Ask asks all questions, several at a time, and returns the answers in their order. Nothing is asked again: on a
// wire of our own no packet may get lost.
func Ask(ctx context.Context, questions []Question) []Answer {
	answers := make([]Answer, len(questions))
	slots := make(chan struct{}, askAtOnce)
	var all sync.WaitGroup
	for i, question := range questions {
		all.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			answers[i] = question.ask(ctx)
		})
	}
	all.Wait()
	return answers
}

func (q Question) ask(ctx context.Context) Answer {
	answer := Answer{Question: q}
	for range max(q.Count, 1) {
		if err := q.askOnce(ctx, &answer); err != nil {
			answer.Error = err.Error()
			break
		}
	}
	return answer
}

func (q Question) askOnce(ctx context.Context, answer *Answer) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if q.Network == DNS {
		addresses, err := net.DefaultResolver.LookupNetIP(ctx, "ip", q.Target)
		if err != nil {
			return fmt.Errorf("looking up %s: %w", q.Target, err)
		}
		for _, address := range addresses {
			answer.Addresses = append(answer.Addresses, address.Unmap())
		}
		return nil
	}
	text, err := q.fetch(ctx)
	if err != nil {
		return fmt.Errorf("asking %s over %s: %w", q.Target, q.Network, err)
	}
	var from Identity
	if err := json.Unmarshal(text, &from); err != nil {
		return fmt.Errorf("understanding %q from %s: %w", text, q.Target, err)
	}
	answer.From = append(answer.From, from)
	return nil
}

func (q Question) fetch(ctx context.Context) ([]byte, error) {
	switch q.Network {
	case HTTP:
		return q.fetchHTTP(ctx)
	case TCP, UDP:
		return q.fetchBare(ctx)
	}
	return nil, fmt.Errorf("there is no network %q", q.Network)
}

func (q Question) fetchHTTP(ctx context.Context) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+q.Target+"/", http.NoBody)
	if err != nil {
		return nil, err
	}
	request.Host = q.Host
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, answerLimit))
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", response.Status, strings.TrimSpace(string(text)))
	}
	return text, err
}

func (q Question) fetchBare(ctx context.Context) ([]byte, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, q.Network, q.Target)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return nil, err
		}
	}
	if q.Network == UDP {
		if _, err := io.WriteString(conn, whoAreYou); err != nil {
			return nil, err
		}
	}
	text := make([]byte, answerLimit)
	size, err := conn.Read(text)
	return text[:size], err
}
