package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// content is a file as it will be in the image.
type content struct {
	as         string
	bytes      []byte
	executable bool
}

// read gets the files of each layer for a platform.
func (r *recipe) read(p v1.Platform) ([][]content, error) {
	var layers [][]content
	for _, files := range r.layers {
		var layer []content
		for _, f := range files {
			c, err := f.read(p)
			if err != nil {
				return nil, err
			}
			layer = append(layer, c)
		}
		layers = append(layers, layer)
	}
	return layers, nil
}

func (f file) read(p v1.Platform) (content, error) {
	host := f.on(p)
	at, err := os.Stat(host)
	if err != nil {
		return content{}, fmt.Errorf("reading a file: %w", err)
	}
	b, err := os.ReadFile(host)
	if err != nil {
		return content{}, fmt.Errorf("reading a file: %w", err)
	}
	if err := runnable(b, p); err != nil {
		return content{}, fmt.Errorf("taking %s: %w", host, err)
	}
	return content{f.as, b, at.Mode()&0o111 != 0}, nil
}

var machines = map[string]elf.Machine{
	"386": elf.EM_386, "amd64": elf.EM_X86_64, "arm": elf.EM_ARM, "arm64": elf.EM_AARCH64, "loong64": elf.EM_LOONGARCH,
	"ppc64le": elf.EM_PPC64, "riscv64": elf.EM_RISCV, "s390x": elf.EM_S390,
}

// runnable refuses a binary that could not run in the image: one of another machine, or one that
// needs a loader and libraries, which an image FROM scratch lacks.
func runnable(b []byte, p v1.Platform) error {
	if !bytes.HasPrefix(b, []byte(elf.ELFMAG)) {
		return nil
	}
	f, err := elf.NewFile(bytes.NewReader(b))
	if err != nil {
		return err
	}
	if want, known := machines[p.Architecture]; known && f.Machine != want {
		return fmt.Errorf("it is for %s, not for %s", f.Machine, p)
	}
	if slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
		return errors.New("it is linked dynamically; build it with CGO_ENABLED=0")
	}
	return nil
}

// image makes the image of one platform.
func (r *recipe) image(p v1.Platform, layers [][]content) (v1.Image, error) {
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	for _, files := range layers {
		layer, err := layer(files)
		if err != nil {
			return nil, err
		}
		img, err = mutate.Append(img, mutate.Addendum{Layer: layer, History: v1.History{
			Created: v1.Time{Time: r.created}, CreatedBy: "COPY " + names(files),
		}})
		if err != nil {
			return nil, fmt.Errorf("adding a layer: %w", err)
		}
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("reading the config: %w", err)
	}
	config = config.DeepCopy()
	config.Created = v1.Time{Time: r.created}
	config.OS, config.Architecture, config.Variant = p.OS, p.Architecture, p.Variant
	config.Config = v1.Config{Entrypoint: r.entrypoint, Cmd: r.cmd, WorkingDir: "/", Labels: r.labels}
	if img, err = mutate.ConfigFile(img, config); err != nil {
		return nil, fmt.Errorf("setting the config: %w", err)
	}
	annotated, ok := mutate.Annotations(img, r.labels).(v1.Image)
	if !ok {
		return nil, errors.New("annotating the image: it is one no more")
	}
	return annotated, nil
}

func names(files []content) string {
	var s []string
	for _, f := range files {
		s = append(s, f.as)
	}
	return strings.Join(s, " ")
}

// layer packs files, with the folders that they are in. They bear no time (tar makes that 1970): a layer whose files
// stay the same stays the same, and need not be pulled again.
func layer(files []content) (v1.Layer, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	made := map[string]bool{"/": true}
	for _, f := range files {
		if err := folders(w, path.Dir(f.as), made); err != nil {
			return nil, err
		}
		mode := int64(0o644)
		if f.executable {
			mode = 0o755
		}
		header := &tar.Header{Typeflag: tar.TypeReg, Name: strings.TrimPrefix(f.as, "/"), Mode: mode, Size: int64(len(f.bytes))}
		if err := w.WriteHeader(header); err != nil {
			return nil, fmt.Errorf("packing %s: %w", f.as, err)
		}
		if _, err := w.Write(f.bytes); err != nil {
			return nil, fmt.Errorf("packing %s: %w", f.as, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("packing a layer: %w", err)
	}
	opener := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil }
	layer, err := tarball.LayerFromOpener(opener, tarball.WithMediaType(types.OCILayer), tarball.WithCompressionLevel(gzip.DefaultCompression), tarball.WithCompressedCaching)
	if err != nil {
		return nil, fmt.Errorf("making a layer: %w", err)
	}
	return layer, nil
}

func folders(w *tar.Writer, dir string, made map[string]bool) error {
	if made[dir] {
		return nil
	}
	if err := folders(w, path.Dir(dir), made); err != nil {
		return err
	}
	made[dir] = true
	header := &tar.Header{Typeflag: tar.TypeDir, Name: strings.TrimPrefix(dir, "/") + "/", Mode: 0o755}
	if err := w.WriteHeader(header); err != nil {
		return fmt.Errorf("packing %s: %w", dir, err)
	}
	return nil
}
