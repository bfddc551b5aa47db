package main

import (
	"fmt"
	"html"
	"math"
	"slices"
	"strconv"
	"strings"
)

// A plot is one picture: some figures of the benchmark with one unit.
type plot struct {
	file, title, unit string
	lines             []line
}

// A line is a figure by the benchmark's name for it.
type line struct{ label, figure string }

var plots = []plot{
	{"start.svg", "A start on an empty table", "s", []line{
		{"to the last route", "start to last route, median"},
		{"its CPU", "CPU to get there, median"},
		{"a plain client's list", "list of all Nodes by a plain client (a yardstick)"},
	}},
	{"memory.svg", "Peak resident memory", "MiB", []line{
		{"of a start", "peak resident memory until then, worst"},
		{settle + " later", "peak resident memory " + settle + " later"},
	}},
	{"new-node.svg", "A new Node to its route, beyond a plain client's watch", "ms", []line{
		{"median", "new Node to its route, beyond that watch, median"},
	}},
	{"cpu.svg", "CPU for a new Node", "ms", []line{{"mean", "CPU for a new Node"}}},
	{"deleted-route.svg", "One deleted route back", "ms", []line{{"median", "one deleted route back, median"}}},
}

// The picture, in pixels: the area of the plot has its left upper corner at (left, top).
const (
	width, height = 560, 300
	left, top     = 56, 60
	right, bottom = width - 70, height - 52
)

const style = `<style>
text { font: 12px system-ui, sans-serif; fill: #24292f; }
.title { font-size: 14px; font-weight: 600; }
.note { font-size: 10px; fill: #57606a; }
.grid { stroke: #d0d7de; stroke-width: 1; }
.line { fill: none; stroke-width: 2; }
.c0 { stroke: #0969da; } .c1 { stroke: #bc4c00; } .c2 { stroke: #6e7781; }
circle.c0 { fill: #0969da; } circle.c1 { fill: #bc4c00; } circle.c2 { fill: #6e7781; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; } .note { fill: #9198a1; } .grid { stroke: #3d444d; }
  .c0 { stroke: #4493f8; } .c1 { stroke: #f0883e; } .c2 { stroke: #9198a1; }
  circle.c0 { fill: #4493f8; } circle.c1 { fill: #f0883e; } circle.c2 { fill: #9198a1; }
}
</style>
`

// draw returns the picture as SVG, without a background, so that it suits light and dark pages.
func (p plot) draw(c costs) (string, error) {
	values := make([][]float64, len(p.lines))
	most := 0.0
	for i, l := range p.lines {
		for _, size := range c.Sizes {
			v, err := size.value(l.figure)
			if err != nil {
				return "", err
			}
			values[i] = append(values[i], v)
			most = max(most, v)
		}
	}
	ticks := ticksTo(most)
	y := func(v float64) float64 { return bottom - v/ticks[len(ticks)-1]*(bottom-top) }
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img">`+"\n<title>%s</title>\n%s",
		width, height, width, height, html.EscapeString(p.title), style)
	text(&b, left, 20, "start", "title", p.title+", "+p.unit)
	text(&b, left, height-8, "start", "note", c.note())
	for _, v := range ticks {
		fmt.Fprintf(&b, `<line class="grid" x1="%d" y1="%.1f" x2="%d" y2="%.1f"/>`+"\n", left, y(v), right, y(v))
		text(&b, left-6, y(v)+4, "end", "", number(v))
	}
	for _, size := range c.Sizes {
		text(&b, c.x(size.Nodes), bottom+18, "middle", "", thousands(size.Nodes))
	}
	for i, l := range p.lines {
		var points []string
		for j, v := range values[i] {
			points = append(points, fmt.Sprintf("%.1f,%.1f", c.x(c.Sizes[j].Nodes), y(v)))
		}
		fmt.Fprintf(&b, `<polyline class="line c%d" points="%s"/>`+"\n", i, strings.Join(points, " "))
		for j, v := range values[i] {
			fmt.Fprintf(&b, `<circle class="c%d" cx="%.1f" cy="%.1f" r="3"><title>%s %s among %s Nodes</title></circle>`+"\n",
				i, c.x(c.Sizes[j].Nodes), y(v), number(v), p.unit, thousands(c.Sizes[j].Nodes))
		}
		fmt.Fprintf(&b, `<line class="line c%d" x1="%d" y1="38" x2="%d" y2="38"/>`+"\n", i, left+i*150, left+i*150+16)
		text(&b, float64(left+i*150+22), 42, "start", "", l.label)
	}
	for _, label := range apart(values, y) {
		text(&b, right+6, label.y+4, "start", "", number(label.value))
	}
	b.WriteString("</svg>\n")
	return b.String(), nil
}

// note describes the run below the plot.
func (c costs) note() string {
	least, most := c.Sizes[0].Load, c.Sizes[0].Load
	for _, s := range c.Sizes {
		least, most = min(least, s.Load), max(most, s.Load)
	}
	return fmt.Sprintf("number of Nodes; %s, %s, load %g to %g", c.Date, c.Machine, least, most)
}

// x is the place of a number of Nodes on an axis of logarithms.
func (c costs) x(nodes int) float64 {
	first, last := math.Log(float64(c.Sizes[0].Nodes)), math.Log(float64(c.Sizes[len(c.Sizes)-1].Nodes))
	return left + (math.Log(float64(nodes))-first)/(last-first)*(right-left)
}

// valueLabel is the last value of a line, beside its end.
type valueLabel struct{ y, value float64 }

// apart returns the labels at the ends of lines, moved so that they do not overlap.
func apart(values [][]float64, y func(float64) float64) []valueLabel {
	var labels []valueLabel
	for _, all := range values {
		v := all[len(all)-1]
		labels = append(labels, valueLabel{y(v), v})
	}
	slices.SortFunc(labels, func(a, b valueLabel) int { return int(math.Copysign(1, b.y-a.y)) }) // from the bottom
	for i := 1; i < len(labels); i++ {
		labels[i].y = min(labels[i].y, labels[i-1].y-14)
	}
	return labels
}

// ticksTo returns some four to ten round numbers from 0, the last of which is not below the greatest value.
func ticksTo(most float64) []float64 {
	if most <= 0 {
		most = 1
	}
	step := math.Pow(10, math.Floor(math.Log10(most)))
	switch {
	case most/step <= 2:
		step *= 0.2
	case most/step <= 3:
		step *= 0.5
	}
	ticks := []float64{0}
	for ticks[len(ticks)-1] < most {
		ticks = append(ticks, step*float64(len(ticks)))
	}
	return ticks
}

// number has two digits that count, and no fewer than those before the point.
func number(v float64) string {
	switch {
	case v == 0:
		return "0"
	case v >= 10:
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'g', 2, 64)
}

// thousands writes 20000 as 20,000.
func thousands(n int) string {
	if n < 1000 {
		return strconv.Itoa(n)
	}
	return fmt.Sprintf("%d,%03d", n/1000, n%1000)
}

func text(b *strings.Builder, x, y float64, anchor, class, s string) {
	fmt.Fprintf(b, `<text class="%s" x="%.1f" y="%.1f" text-anchor="%s">%s</text>`+"\n", class, x, y, anchor, html.EscapeString(s))
}
