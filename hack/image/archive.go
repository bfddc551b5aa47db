package main

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// imageNameKey is the annotation in index.json by which containerd, and Docker since version 25,
// name what they import (containerd, core/images/annotations.go). The tag alone is in
// org.opencontainers.image.ref.name, as the OCI layout specifies.
const imageNameKey = "io.containerd.image.name"

const refNameKey = "org.opencontainers.image.ref.name"

// built is the image of one platform.
type built struct {
	platform v1.Platform
	image    v1.Image
	sbom     []byte
}

// make builds the image for each platform, writes the archive, and prints what it made.
func (r *recipe) make(w io.Writer) error {
	var images []built
	for _, p := range r.platforms {
		b, err := r.build(p)
		if err != nil {
			return fmt.Errorf("building for %s: %w", p, err)
		}
		images = append(images, b)
	}
	index, err := r.index(images)
	if err != nil {
		return err
	}
	if err := r.write(index, images); err != nil {
		return fmt.Errorf("writing %s: %w", r.out, err)
	}
	return r.report(w, index, images)
}

func (r *recipe) build(p v1.Platform) (built, error) {
	layers, err := r.read(p)
	if err != nil {
		return built{}, err
	}
	last := len(layers) - 1
	if r.licenses != "" {
		texts, err := licenses(layers)
		if err != nil {
			return built{}, err
		}
		layers[last] = append(layers[last], content{as: r.licenses, bytes: texts})
	}
	var bom []byte
	if r.sbom != "" {
		if bom, err = r.materials(p, layers); err != nil {
			return built{}, err
		}
		layers[last] = append(layers[last], content{as: r.sbom, bytes: bom})
	}
	img, err := r.image(p, layers)
	return built{p, img, bom}, err
}

// index is the archive's: one image by its name, or, where there are several platforms, an index of them by that name.
func (r *recipe) index(images []built) (v1.ImageIndex, error) {
	var adds []mutate.IndexAddendum
	for _, b := range images {
		adds = append(adds, mutate.IndexAddendum{Add: b.image, Descriptor: v1.Descriptor{Platform: &b.platform}})
	}
	if len(adds) > 1 {
		of := mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex), adds...)
		annotated, ok := mutate.Annotations(of, r.labels).(v1.ImageIndex)
		if !ok {
			return nil, errors.New("annotating the index: it is one no more")
		}
		adds = []mutate.IndexAddendum{{Add: annotated}}
	}
	adds[0].Annotations = map[string]string{imageNameKey: r.tag.Name(), refNameKey: r.tag.TagStr()}
	return mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex), adds...), nil
}

// write makes the archive, and the bills of materials beside it. Each gets its name when it is complete.
func (r *recipe) write(index v1.ImageIndex, images []built) error {
	dir, err := os.MkdirTemp(filepath.Dir(r.out), ".image-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if _, err := layout.Write(dir, index); err != nil {
		return err
	}
	manifest, err := r.dockerManifest(images)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "manifest.json"), manifest, 0o644); err != nil {
		return err
	}
	if err := replace(r.out, func(f io.Writer) error { return pack(f, os.DirFS(dir), r.created) }); err != nil {
		return err
	}
	for _, b := range images {
		if b.sbom == nil {
			continue
		}
		write := func(f io.Writer) error { _, err := f.Write(b.sbom); return err }
		if err := replace(r.sbomPath(b.platform), write); err != nil {
			return err
		}
	}
	return nil
}

// sbomPath is where the bill of materials of a platform's image is written, beside the archive.
func (r *recipe) sbomPath(p v1.Platform) string {
	return fmt.Sprintf("%s-%s-%s.cdx.json", strings.TrimSuffix(r.out, ".tar"), p.OS, p.Architecture)
}

// replace writes a file beside path and renames it into place.
func replace(path string, write func(io.Writer) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if err := errors.Join(write(f), f.Chmod(0o644), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// dockerManifest is the manifest.json of `docker save`, which Docker before version 25 reads. It
// has one platform only: this machine's if the image is for it, else the first.
func (r *recipe) dockerManifest(images []built) ([]byte, error) {
	pick := images[0]
	for _, b := range images {
		if b.platform.Architecture == runtime.GOARCH {
			pick = b
		}
	}
	manifest, err := pick.image.Manifest()
	if err != nil {
		return nil, err
	}
	blob := func(h v1.Hash) string { return "blobs/" + h.Algorithm + "/" + h.Hex }
	entry := struct {
		Config   string
		RepoTags []string
		Layers   []string
	}{Config: blob(manifest.Config.Digest), RepoTags: []string{r.tag.Name()}}
	for _, layer := range manifest.Layers {
		entry.Layers = append(entry.Layers, blob(layer.Digest))
	}
	return json.Marshal([]any{entry})
}

// pack writes a folder as a tar file without a trace of where and when it was made.
func pack(w io.Writer, dir fs.FS, at time.Time) error {
	t := tar.NewWriter(w)
	err := fs.WalkDir(dir, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == "." {
			return err
		}
		if d.IsDir() {
			return t.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: path + "/", Mode: 0o755, ModTime: at})
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: path, Mode: 0o644, Size: info.Size(), ModTime: at}); err != nil {
			return err
		}
		f, err := dir.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(t, f)
		return err
	})
	return errors.Join(err, t.Close())
}

// report prints the digests and sizes. A registry would identify the image by this digest.
func (r *recipe) report(w io.Writer, index v1.ImageIndex, images []built) error {
	manifest, err := index.IndexManifest()
	if err != nil {
		return fmt.Errorf("reading the index: %w", err)
	}
	fmt.Fprintf(w, "%s\n  %s  %s\n", r.out, r.tag.Name(), manifest.Manifests[0].Digest)
	for _, b := range images {
		digest, err := b.image.Digest()
		if err != nil {
			return fmt.Errorf("reading the digest: %w", err)
		}
		packed, unpacked, err := sizes(b.image)
		if err != nil {
			return fmt.Errorf("reading sizes: %w", err)
		}
		fmt.Fprintf(w, "  %-12s %s  %.1f MB to pull, %.1f MB unpacked\n", b.platform, digest, mega(packed), mega(unpacked))
	}
	return nil
}

func mega(n int64) float64 { return float64(n) / 1e6 }

// sizes sums up the layers, packed and as tar files.
func sizes(img v1.Image) (packed, unpacked int64, err error) {
	layers, err := img.Layers()
	if err != nil {
		return 0, 0, err
	}
	for _, layer := range layers {
		size, err := layer.Size()
		if err != nil {
			return 0, 0, err
		}
		packed += size
		tarred, err := layer.Uncompressed()
		if err != nil {
			return 0, 0, err
		}
		n, err := io.Copy(io.Discard, tarred)
		if err := errors.Join(err, tarred.Close()); err != nil {
			return 0, 0, err
		}
		unpacked += n
	}
	return packed, unpacked, nil
}
