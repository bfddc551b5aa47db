package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// source is a folder with a program for two platforms, and a text.
func source(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "go.mod"), "module example.com/hello\n\ngo 1.26\n", 0o644)
	write(t, filepath.Join(dir, "main.go"), "package main\n\nfunc main() { println(`hello`) }\n", 0o644)
	write(t, filepath.Join(dir, "LICENSE"), "Do as you like.\n", 0o644)
	for _, arch := range []string{"amd64", "arm64"} {
		cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-buildvcs=false", "-o", "linux-"+arch+"/hello", ".")
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOOS=linux", "GOARCH="+arch)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("building: %v\n%s", err, out)
		}
	}
	return dir
}

func write(t *testing.T, path, content string, mode os.FileMode) {
	t.Helper()
	must(t, os.WriteFile(path, []byte(content), mode))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// made makes an image of the source, for platforms, and returns the archive's path and the output.
func made(t *testing.T, src, platforms string, more ...string) (path, output string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "image.tar")
	r, err := parse(append(append([]string{
		"-o", path, "-tag", "localhost/hello:1", "-platform", platforms, "-entrypoint", "/bin/hello", "-cmd", "you",
		"-label", "org.opencontainers.image.version=v1.2.3", "-sbom", "/sbom.json", "-licenses", "/licences.txt",
	}, more...), src+"/LICENSE:/usr/share/LICENSE", "+", src+"/{os}-{arch}/hello:/bin/hello"))
	must(t, err)
	var out bytes.Buffer
	must(t, r.make(&out))
	return path, out.String()
}

const both = "linux/amd64,linux/arm64"

// unpack reads a tar file into a folder, and returns its headers.
func unpack(t *testing.T, r io.Reader, dir string) map[string]*tar.Header {
	t.Helper()
	headers := map[string]*tar.Header{}
	for archive := tar.NewReader(r); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return headers
		}
		must(t, err)
		headers[h.Name] = h
		if h.Typeflag == tar.TypeDir {
			must(t, os.MkdirAll(filepath.Join(dir, h.Name), 0o755))
			continue
		}
		content, err := io.ReadAll(archive)
		must(t, err)
		must(t, os.WriteFile(filepath.Join(dir, h.Name), content, 0o644))
	}
}

// open reads the archive as an OCI layout and returns the one entry of its index.
func open(t *testing.T, path string) (v1.ImageIndex, v1.Descriptor) {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	dir := t.TempDir()
	unpack(t, f, dir)
	index, err := layout.ImageIndexFromPath(dir)
	must(t, err)
	manifest, err := index.IndexManifest()
	must(t, err)
	if len(manifest.Manifests) != 1 {
		t.Fatalf("%d entries in the index", len(manifest.Manifests))
	}
	return index, manifest.Manifests[0]
}

// The archive is an OCI layout whose one entry has the image's name and both platforms.
func TestPlatforms(t *testing.T) {
	path, output := made(t, source(t), both)
	outer, entry := open(t, path)
	if got := entry.Annotations; got[imageNameKey] != "localhost/hello:1" || got[refNameKey] != "1" {
		t.Errorf("named %v", got)
	}
	index, err := outer.ImageIndex(entry.Digest)
	must(t, err)
	must(t, validate.Index(index))
	manifest, err := index.IndexManifest()
	must(t, err)
	if got := manifest.Annotations["org.opencontainers.image.version"]; got != "v1.2.3" {
		t.Errorf("the index is annotated with version %q", got)
	}
	var platforms []string
	for _, m := range manifest.Manifests {
		platforms = append(platforms, m.Platform.String())
		if !strings.Contains(output, m.Digest.String()) {
			t.Errorf("digest %s is not in %q", m.Digest, output)
		}
		img, err := index.Image(m.Digest)
		must(t, err)
		checkImage(t, img, *m.Platform)
	}
	if got := strings.Join(platforms, ","); got != both {
		t.Errorf("platforms are %s", got)
	}
	if !strings.Contains(output, entry.Digest.String()) {
		t.Errorf("digest %s is not in %q", entry.Digest, output)
	}
}

// checkImage looks at an image of the source.
func checkImage(t *testing.T, img v1.Image, p v1.Platform) {
	t.Helper()
	config, err := img.ConfigFile()
	must(t, err)
	if config.OS != p.OS || config.Architecture != p.Architecture {
		t.Errorf("the config is for %s/%s, not for %s", config.OS, config.Architecture, p)
	}
	c := config.Config
	if !slices.Equal(c.Entrypoint, []string{"/bin/hello"}) || !slices.Equal(c.Cmd, []string{"you"}) || c.Labels["org.opencontainers.image.version"] != "v1.2.3" {
		t.Errorf("the config is %+v", c)
	}
	layers, err := img.Layers()
	must(t, err)
	want := [][]string{
		{"usr/", "usr/share/", "usr/share/LICENSE"},
		{"bin/", "bin/hello", "licences.txt", "sbom.json"},
	}
	if len(layers) != len(want) {
		t.Fatalf("%d layers", len(layers))
	}
	dir := t.TempDir()
	for n, layer := range layers {
		tarred, err := layer.Uncompressed()
		must(t, err)
		headers := unpack(t, tarred, dir)
		if got := slices.Sorted(maps.Keys(headers)); !slices.Equal(got, want[n]) {
			t.Errorf("layer %d holds %v", n, got)
		}
		for name, h := range headers {
			mode := int64(0o644)
			if strings.HasSuffix(name, "/") || name == "bin/hello" {
				mode = 0o755
			}
			if h.Mode != mode || h.Uid != 0 || h.Gid != 0 || h.ModTime.Unix() != 0 {
				t.Errorf("%s has %o, %d:%d, %s", name, h.Mode, h.Uid, h.Gid, h.ModTime)
			}
		}
	}
	checkMaterials(t, dir)
}

// checkMaterials checks the bill of materials of an image of the source.
func checkMaterials(t *testing.T, dir string) {
	t.Helper()
	f, err := os.Open(filepath.Join(dir, "sbom.json"))
	must(t, err)
	defer f.Close()
	var bom cdx.BOM
	must(t, cdx.NewBOMDecoder(f, cdx.BOMFileFormatJSON).Decode(&bom))
	got := map[string]string{}
	for _, c := range *bom.Components {
		got[c.BOMRef] = c.Version
	}
	if _, found := got["pkg:golang/example.com/hello@v1.2.3"]; !found || len(got) != 5 {
		t.Errorf("components are %v", got)
	}
	for _, d := range *bom.Dependencies {
		if d.Ref == "/bin/hello" && len(*d.Dependencies) != 2 {
			t.Errorf("the program is made of %v", *d.Dependencies)
		}
	}
	texts, err := os.ReadFile(filepath.Join(dir, "licences.txt"))
	must(t, err)
	if !bytes.Contains(texts, []byte("stdlib@go1.")) || !bytes.Contains(texts, []byte("The Go Authors")) {
		t.Errorf("licenses are %s", texts)
	}
}

// Docker before version 25 reads the manifest.json, and nothing of the OCI layout.
func TestDocker(t *testing.T) {
	path, _ := made(t, source(t), both)
	img, err := tarball.ImageFromPath(path, nil)
	must(t, err)
	must(t, validate.Image(img))
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	dir := t.TempDir()
	unpack(t, f, dir)
	content, err := os.ReadFile(filepath.Join(dir, "manifest.json"))
	must(t, err)
	var entries []struct{ RepoTags []string }
	must(t, json.Unmarshal(content, &entries))
	if len(entries) != 1 || !slices.Equal(entries[0].RepoTags, []string{"localhost/hello:1"}) {
		t.Errorf("manifest.json is %s", content)
	}
}

// An image for one platform needs no index of its own.
func TestOnePlatform(t *testing.T) {
	path, _ := made(t, source(t), "linux/arm64")
	outer, entry := open(t, path)
	img, err := outer.Image(entry.Digest)
	must(t, err)
	must(t, validate.Image(img))
	checkImage(t, img, v1.Platform{OS: "linux", Architecture: "arm64"})
	if got := entry.Annotations[imageNameKey]; got != "localhost/hello:1" {
		t.Errorf("named %q", got)
	}
}

// Made of the same files elsewhere, later and by another user's habits, it is the same to the byte.
func TestReproducible(t *testing.T) {
	src := source(t)
	first, _ := made(t, src, both)
	elsewhere := filepath.Join(t.TempDir(), "else", "where")
	must(t, os.CopyFS(elsewhere, os.DirFS(src)))
	must(t, filepath.Walk(elsewhere, func(path string, at os.FileInfo, err error) error {
		if err == nil && at.Mode().IsRegular() {
			err = os.Chmod(path, at.Mode()&^0o077)
		}
		return err
	}))
	second, _ := made(t, elsewhere, both)
	for _, suffix := range []string{".tar", "-linux-amd64.cdx.json", "-linux-arm64.cdx.json"} {
		a, err := os.ReadFile(strings.TrimSuffix(first, ".tar") + suffix)
		must(t, err)
		b, err := os.ReadFile(strings.TrimSuffix(second, ".tar") + suffix)
		must(t, err)
		if !bytes.Equal(a, b) {
			t.Errorf("image%s differs", suffix)
		}
	}
}

// The time is in the config and in the bill of materials, and leaves the other layers as they are.
func TestSourceDate(t *testing.T) {
	src := source(t)
	layers := func() []string {
		path, _ := made(t, src, "linux/amd64")
		index, entry := open(t, path)
		img, err := index.Image(entry.Digest)
		must(t, err)
		config, err := img.ConfigFile()
		must(t, err)
		digests := []string{config.Created.UTC().Format(time.RFC3339)}
		for _, h := range config.RootFS.DiffIDs {
			digests = append(digests, h.String())
		}
		return digests
	}
	undated := layers()
	t.Setenv("SOURCE_DATE_EPOCH", "1700000000")
	dated := layers()
	if undated[0] != "1970-01-01T00:00:00Z" || dated[0] != "2023-11-14T22:13:20Z" {
		t.Errorf("created at %s and %s", undated[0], dated[0])
	}
	if undated[1] != dated[1] || undated[2] == dated[2] {
		t.Errorf("layers are %v and %v", undated[1:], dated[1:])
	}
}

// A binary that could not run in the image is refused, and nothing is left.
func TestRefused(t *testing.T) {
	src := source(t)
	dynamic := filepath.Join(src, "dynamic")
	binary, err := os.ReadFile(filepath.Join(src, "linux-amd64", "hello"))
	must(t, err)
	interp := bytes.Clone(binary)
	interp[64] = 3 // the first program header's type, PT_INTERP in elf(5)
	must(t, os.WriteFile(dynamic, interp, 0o755))
	dir := t.TempDir()
	for want, args := range map[string][]string{
		"linked dynamically":         {dynamic + ":/x"},
		"not for linux/amd64":        {src + "/linux-arm64/hello:/x"},
		"no such file":               {src + "/nowhere:/x"},
		"is not HOSTPATH:/IMAGEPATH": {src + "/linux-amd64/hello:x"},
		"a layer without a file":     {src + "/linux-amd64/hello:/x", "+"},
	} {
		r, err := parse(append([]string{"-o", dir + "/x.tar", "-tag", "localhost/x:1", "-entrypoint", "/x"}, args...))
		if err == nil {
			err = r.make(io.Discard)
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", args, err, want)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left over: %v, %v", left, err)
	}
}

func TestFlags(t *testing.T) {
	for want, args := range map[string][]string{
		"are needed":                    {"-o", "x"},
		"reading -tag":                  {"-o", "x", "-tag", "hello", "-entrypoint", "/x", "a:/b"},
		"reading -platform":             {"-o", "x", "-tag", "localhost/x:1", "-entrypoint", "/x", "-platform", "amd64", "a:/b"},
		"want key=value":                {"-label", "x"},
		"flag provided but not defined": {"-push"},
	} {
		if _, err := parse(args); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", args, err, want)
		}
	}
}
