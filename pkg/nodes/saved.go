package nodes

import (
	"bytes"
	"crypto/sha256"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/plainroute/plainroute/pkg/problem"
	"github.com/plainroute/plainroute/pkg/topology"
)

// Saved is a view that outlives the agent.
type Saved struct {
	Identity        Identity
	Time            time.Time // of writing
	ResourceVersion string    // the view has all changes up to this one
	Own             *OwnState

	Nodes  []*topology.Node  `json:"-"`
	Grants []topology.Grant  `json:"-"` // of the last pass
	bare   map[string]string // as in Source
}

// Identity is what a saved view depends on. Only an agent with the same one uses it.
type Identity struct {
	Version string // plainroute's
	Cluster string // a hash of its CA
	Node    string // Source.Own
	Ignored string // the selector of ignored Nodes
}

// A file is the magic, the SHA-256 of the rest, and in the rest protobuf: the JSON of Saved (1), and
// messages of one Node each (2).
const (
	savedMagic  = "plainroute nodes 1\n"
	headerSize  = len(savedMagic) + sha256.Size
	savedMaxAge = 24 * time.Hour
)

// Encode returns the view as a file.
func (v *Saved) Encode() ([]byte, error) {
	header, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encoding the Nodes: %w", err)
	}
	grants := map[string][]topology.Grant{}
	for _, g := range v.Grants {
		grants[g.Node] = append(grants[g.Node], g)
	}
	file := appendField(make([]byte, headerSize, 192*(len(v.Nodes)+8)), 1, header)
	var node []byte
	for _, n := range v.Nodes {
		if node, err = appendNode(node[:0], n, v.bare[n.Name], grants[n.Name]); err != nil {
			return nil, fmt.Errorf("encoding Node %s: %w", n.Name, err)
		}
		file = appendField(file, 2, node)
	}
	return seal(file), nil
}

// seal fills in the header.
func seal(file []byte) []byte {
	sum := sha256.Sum256(file[headerSize:])
	copy(file[copy(file, savedMagic):], sum[:])
	return file
}

// Decode reads a file. It fails if the view is not of an agent with the identity, or too old.
func Decode(file []byte, identity Identity, now time.Time) (*Saved, error) {
	rest, found := bytes.CutPrefix(file, []byte(savedMagic))
	switch {
	case !found:
		return nil, errors.New("it has another format")
	case len(rest) < sha256.Size || sha256.Sum256(rest[sha256.Size:]) != [sha256.Size]byte(rest):
		return nil, errors.New("it is damaged: the checksum differs")
	}
	v := &Saved{bare: map[string]string{}}
	err := eachField(rest[sha256.Size:], func(number protowire.Number, value []byte) error {
		if number == 2 {
			return v.readNode(value)
		}
		if err := json.Unmarshal(value, v); err != nil {
			return err
		}
		return v.check(identity, now) // before the work of the rest
	})
	if err != nil {
		return nil, err
	}
	return v, nil
}

// check returns why the view must not be used.
func (v *Saved) check(identity Identity, now time.Time) error {
	switch is := v.Identity; {
	case is.Version != identity.Version:
		return fmt.Errorf("version %s wrote it", is.Version)
	case is.Cluster != identity.Cluster:
		return errors.New("it is of another cluster, or the cluster has another CA")
	case is != identity:
		return errors.New("the Node's name or the selector of ignored Nodes was another one")
	case now.Before(v.Time):
		return fmt.Errorf("it was written at %s, which is in the future", v.Time.Format(time.RFC3339))
	case now.Sub(v.Time) > savedMaxAge:
		return fmt.Errorf("it was written at %s, more than a day ago", v.Time.Format(time.RFC3339))
	case v.ResourceVersion == "":
		return errors.New("it has no resource version")
	}
	return nil
}

// appendNode appends the fields of a Node that readNode reads.
func appendNode(b []byte, n *topology.Node, bare string, grants []topology.Grant) ([]byte, error) {
	b = appendBinary(appendField(appendField(b, 1, n.Name), 2, n.UID), 3, n.Created.UTC())
	for _, p := range n.PodCIDRs {
		b = appendBinary(b, 4, p)
	}
	for _, addr := range n.Addrs {
		b = appendBinary(b, 5, addr)
	}
	for _, p := range n.Problems {
		raw, err := json.Marshal(p)
		if err != nil {
			return nil, err
		}
		b = appendField(b, 6, raw)
	}
	if bare != "" {
		b = appendField(b, 7, bare)
	}
	for _, g := range grants {
		if g.UID != n.UID {
			continue
		}
		b = appendBinary(b, 8, g.Subnet)
		b = appendBinary(appendBinary(b, 9, g.Addr), 10, g.Via)
		if g.HadRoute {
			b = appendField(b, 11, "")
		}
	}
	return b, nil
}

// readNode adds a Node and its grants.
func (v *Saved) readNode(b []byte) error {
	n, grant := &topology.Node{}, &topology.Grant{}
	err := eachField(b, func(number protowire.Number, value []byte) error {
		switch number {
		case 1:
			n.Name = string(value)
		case 2:
			n.UID = string(value)
		case 3:
			return n.Created.UnmarshalBinary(value)
		case 4:
			return readInto(&n.PodCIDRs, value)
		case 5:
			return readInto(&n.Addrs, value)
		case 6:
			n.Problems = append(n.Problems, problem.Problem{})
			return json.Unmarshal(value, &n.Problems[len(n.Problems)-1])
		case 7:
			v.bare[n.Name] = string(value)
		case 8: // the first field of a grant
			v.Grants = append(v.Grants, topology.Grant{Node: n.Name, UID: n.UID})
			grant = &v.Grants[len(v.Grants)-1]
			return grant.Subnet.UnmarshalBinary(value)
		case 9:
			return grant.Addr.UnmarshalBinary(value)
		case 10:
			return grant.Via.UnmarshalBinary(value)
		case 11:
			grant.HadRoute = true
		}
		return nil
	})
	v.Nodes = append(v.Nodes, n)
	return err
}

func appendField[T string | []byte](b []byte, number protowire.Number, value T) []byte {
	b = protowire.AppendTag(b, number, protowire.BytesType)
	return append(protowire.AppendVarint(b, uint64(len(value))), value...)
}

// appendBinary appends an address, a prefix or a time in UTC: all have a binary form, of less than 128
// bytes.
func appendBinary[T encoding.BinaryAppender](b []byte, number protowire.Number, value T) []byte {
	b = append(protowire.AppendTag(b, number, protowire.BytesType), 0)
	begin := len(b)
	b, _ = value.AppendBinary(b)
	b[begin-1] = byte(len(b) - begin)
	return b
}

// readInto appends an element in its binary form.
func readInto[T any, P interface {
	*T
	encoding.BinaryUnmarshaler
}](list *[]T, b []byte) error {
	var element T
	err := P(&element).UnmarshalBinary(b)
	*list = append(*list, element)
	return err
}
