package main

import (
	"encoding/xml"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
)

func TestTicks(t *testing.T) {
	for most, want := range map[float64]string{
		0: "0 0.2 0.4 0.6 0.8 1", 0.75: "0 0.1 0.2 0.3 0.4 0.5 0.6 0.7 0.8", 2.4: "0 0.5 1 1.5 2 2.5", 4: "0 1 2 3 4",
		51: "0 10 20 30 40 50 60", 130: "0 20 40 60 80 100 120 140",
	} {
		var got []string
		for _, v := range ticksTo(most) {
			got = append(got, number(v))
		}
		if s := strings.Join(got, " "); s != want {
			t.Errorf("up to %g: %s, want %s", most, s, want)
		}
	}
}

func TestLabelsAreApart(t *testing.T) {
	got := apart([][]float64{{1, 10}, {1, 11}, {2, 50}}, func(v float64) float64 { return 100 - v })
	want := []valueLabel{{90, 10}, {76, 11}, {50, 50}}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// A picture is well-formed, has a point for each size, and the same bytes each time.
func TestPicture(t *testing.T) {
	c := costs{Date: "2026-01-02", Machine: "2 cores"}
	for _, nodes := range []int{100, 5000, 20000} {
		c.Sizes = append(c.Sizes, sizeCost{Nodes: nodes, Load: float64(nodes) / 100})
	}
	p := plot{"a.svg", "A < B", "ms", []line{{"median", "a figure"}, {"worst", "another"}}}
	if _, err := p.draw(c); err == nil {
		t.Error("figures that are missing are drawn")
	}
	for i := range c.Sizes {
		for j, name := range []string{"a figure", "another"} {
			r := c.Sizes[i].Results
			r = slices.Grow(r, 1)[:len(r)+1]
			r[len(r)-1].Name, r[len(r)-1].Value = name, float64(i*10+j)
			c.Sizes[i].Results = r
		}
	}
	first, err := p.draw(c)
	again, _ := p.draw(c)
	if err != nil || first != again {
		t.Fatalf("drawn twice: %v", err)
	}
	decoder := xml.NewDecoder(strings.NewReader(first))
	for err == nil {
		_, err = decoder.Token()
	}
	if !errors.Is(err, io.EOF) {
		t.Errorf("%v in\n%s", err, first)
	}
	if n := strings.Count(first, "<circle"); n != 6 {
		t.Errorf("%d points, want 6", n)
	}
	for _, want := range []string{"A &lt; B, ms", "20,000", "prefers-color-scheme: dark", "load 1 to 200"} {
		if !strings.Contains(first, want) {
			t.Errorf("no %q in\n%s", want, first)
		}
	}
}
