// Command image makes a container image of files, FROM scratch, without Docker and without a registry:
//
//	image -o pause.tar -tag localhost/pause:1 -entrypoint /pause bin/pause:/pause
//
// The result is an OCI image layout in a tar file, with the manifest.json of `docker save` beside
// it: `ctr images import`, `kind load image-archive`, `docker load` and `podman load` all take it.
// Several platforms go into one archive:
//
//	image -o x.tar -tag localhost/x:1 -entrypoint /x -platform linux/amd64,linux/arm64 'bin/{os}-{arch}/x:/x'
//
// Same files, same archive: owners are root, modes are 0755 or 0644, files have no time; the image
// was created at $SOURCE_DATE_EPOCH, else in 1970.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

func main() {
	r, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err == nil {
		err = r.make(os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

// recipe describes the image to build.
type recipe struct {
	out        string
	tag        name.Tag
	entrypoint []string
	cmd        []string
	platforms  []v1.Platform
	labels     map[string]string
	sbom       string // where in the image; "": none
	licenses   string // likewise
	created    time.Time
	layers     [][]file
}

// file is one to put into the image. In path, {os} and {arch} stand for the platform's.
type file struct {
	path string
	as   string
}

func parse(args []string) (*recipe, error) {
	r := &recipe{labels: map[string]string{}}
	fs := flag.NewFlagSet("image", flag.ContinueOnError)
	fs.Usage = func() {
		fmt.Fprintln(fs.Output(), "usage: image -o OUT.tar -tag NAME:TAG -entrypoint PATH [flags] HOSTPATH:/IMAGEPATH... [+ HOSTPATH:/IMAGEPATH...]...\n"+
			"A + begins another layer. In HOSTPATH, {os} and {arch} stand for the platform's.")
		fs.PrintDefaults()
	}
	fs.StringVar(&r.out, "o", "", "`file` to write")
	tag := fs.String("tag", "", "the image's `name`, as in localhost/pause:1")
	platforms := fs.String("platform", "linux/amd64", "`platforms`, separated by commas")
	fs.StringVar(&r.sbom, "sbom", "", "`path` in the image for its bill of materials (CycloneDX), which is written beside the archive too")
	fs.StringVar(&r.licenses, "licenses", "", "`path` in the image for the licenses of the modules that its binaries are made of")
	fs.Func("entrypoint", "`path` of the program, and its first arguments if repeated", appendTo(&r.entrypoint))
	fs.Func("cmd", "default `argument`; may be repeated", appendTo(&r.cmd))
	fs.Func("label", "`key=value`, a label of the image and an annotation of its manifest; may be repeated", r.label)
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	if r.out == "" || *tag == "" || len(r.entrypoint) == 0 || fs.NArg() == 0 {
		return nil, errors.New("-o, -tag, -entrypoint and a file are needed; -h lists the flags")
	}
	var err error
	if r.tag, err = name.NewTag(*tag, name.StrictValidation); err != nil {
		return nil, fmt.Errorf("reading -tag: %w", err)
	}
	for _, p := range strings.Split(*platforms, ",") {
		platform, err := v1.ParsePlatform(p)
		if err != nil || platform.OS == "" || platform.Architecture == "" {
			return nil, fmt.Errorf("reading -platform: %q is not like linux/amd64", p)
		}
		r.platforms = append(r.platforms, *platform)
	}
	if r.layers, err = layersOf(fs.Args()); err != nil {
		return nil, err
	}
	r.created, err = sourceDate()
	return r, err
}

func appendTo(list *[]string) func(string) error {
	return func(s string) error {
		*list = append(*list, s)
		return nil
	}
}

func (r *recipe) label(s string) error {
	key, value, found := strings.Cut(s, "=")
	if !found || key == "" {
		return errors.New("want key=value")
	}
	r.labels[key] = value
	return nil
}

// layersOf reads HOSTPATH:/IMAGEPATH, a + between layers.
func layersOf(args []string) ([][]file, error) {
	layers := [][]file{nil}
	for _, arg := range args {
		last := len(layers) - 1
		if arg == "+" {
			layers = append(layers, nil)
			continue
		}
		from, as, found := strings.Cut(arg, ":")
		if !found || from == "" || !path.IsAbs(as) || path.Clean(as) != as || as == "/" {
			return nil, fmt.Errorf("%q is not HOSTPATH:/IMAGEPATH", arg)
		}
		layers[last] = append(layers[last], file{from, as})
	}
	for _, files := range layers {
		if len(files) == 0 {
			return nil, errors.New("there is a layer without a file")
		}
	}
	return layers, nil
}

// on gives the file's path for a platform.
func (f file) on(p v1.Platform) string {
	return strings.NewReplacer("{os}", p.OS, "{arch}", p.Architecture).Replace(f.path)
}

// sourceDate is the time of everything in the image, see
// reproducible-builds.org/specs/source-date-epoch.
func sourceDate() (time.Time, error) {
	s := os.Getenv("SOURCE_DATE_EPOCH")
	if s == "" {
		return time.Unix(0, 0).UTC(), nil
	}
	seconds, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("reading SOURCE_DATE_EPOCH: %w", err)
	}
	return time.Unix(seconds, 0).UTC(), nil
}
