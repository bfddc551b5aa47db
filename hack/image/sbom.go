package main

import (
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// materials lists what is in the image: each file, and for each Go binary the modules in its build
// information.
func (r *recipe) materials(p v1.Platform, layers [][]content) ([]byte, error) {
	b := &bill{version: r.labels["org.opencontainers.image.version"], modules: map[string]cdx.Component{}}
	for _, files := range layers {
		for _, f := range files {
			if err := b.add(f); err != nil {
				return nil, fmt.Errorf("listing what %s is made of: %w", f.as, err)
			}
		}
	}
	bom := cdx.NewBOM()
	bom.Metadata = &cdx.Metadata{
		Timestamp: r.created.Format(time.RFC3339),
		Component: &cdx.Component{
			BOMRef: "image", Type: cdx.ComponentTypeContainer, Name: r.tag.Name(), Version: b.version,
			Properties: &[]cdx.Property{{Name: "platform", Value: p.String()}},
		},
	}
	bom.Components, bom.Dependencies = b.lists()
	out, err := encode(bom)
	if err != nil {
		return nil, err
	}
	// A serial number that follows from the content, in the form of RFC 9562, 5.8: the same bill has the same one.
	id := sha256.Sum256(out)
	id[6], id[8] = id[6]&0x0f|0x80, id[8]&0x3f|0x80
	bom.SerialNumber = fmt.Sprintf("urn:uuid:%x-%x-%x-%x-%x", id[0:4], id[4:6], id[6:8], id[8:10], id[10:16])
	return encode(bom)
}

func encode(bom *cdx.BOM) ([]byte, error) {
	var b bytes.Buffer
	if err := cdx.NewBOMEncoder(&b, cdx.BOMFileFormatJSON).SetPretty(true).EncodeVersion(bom, cdx.SpecVersion1_6); err != nil {
		return nil, fmt.Errorf("writing a bill of materials: %w", err)
	}
	return b.Bytes(), nil
}

// bill collects components: the files in the image's order, the modules by their package URL.
type bill struct {
	version string // of modules built from a checkout, which Go calls (devel)
	files   []cdx.Component
	modules map[string]cdx.Component
	depends []cdx.Dependency
}

func (b *bill) add(f content) error {
	sum := sha256.Sum256(f.bytes)
	component := cdx.Component{
		BOMRef: f.as, Type: cdx.ComponentTypeFile, Name: f.as,
		Hashes: &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: hex.EncodeToString(sum[:])}},
	}
	info, err := buildinfo.Read(bytes.NewReader(f.bytes))
	if err != nil {
		if f.executable {
			return fmt.Errorf("reading its build info: %w", err)
		}
		b.files = append(b.files, component)
		return nil
	}
	component.Type = cdx.ComponentTypeApplication
	component.Description = "package " + info.Path
	b.files = append(b.files, component)
	modules := []*debug.Module{{Path: "stdlib", Version: strings.TrimPrefix(info.GoVersion, "go")}, &info.Main}
	var refs []string
	for _, m := range append(modules, info.Deps...) {
		if m.Replace != nil {
			m = m.Replace
		}
		if m.Path != "" { // as is the main module's of a file that was built by itself
			refs = append(refs, b.module(m))
		}
	}
	slices.Sort(refs)
	refs = slices.Compact(refs)
	b.depends = append(b.depends, cdx.Dependency{Ref: f.as, Dependencies: &refs})
	return nil
}

// module notes a module and returns its package URL, as the purl specification has it for Go.
func (b *bill) module(m *debug.Module) string {
	version := m.Version
	if version == "(devel)" || version == "" {
		version = b.version
	}
	purl := "pkg:golang/" + m.Path
	if version != "" {
		purl += "@" + version
	}
	b.modules[purl] = cdx.Component{BOMRef: purl, Type: cdx.ComponentTypeLibrary, Name: m.Path, Version: version, PackageURL: purl}
	return purl
}

// lists returns the files, then the modules in order, and the contents of each.
func (b *bill) lists() (*[]cdx.Component, *[]cdx.Dependency) {
	components := b.files
	var parts, purls []string
	for _, f := range b.files {
		parts = append(parts, f.BOMRef)
	}
	for purl := range b.modules {
		purls = append(purls, purl)
	}
	slices.Sort(purls)
	for _, purl := range purls {
		components = append(components, b.modules[purl])
	}
	depends := append([]cdx.Dependency{{Ref: "image", Dependencies: &parts}}, b.depends...)
	return &components, &depends
}
