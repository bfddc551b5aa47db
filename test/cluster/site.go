package cluster

import "fmt"

// Site is the LAN, its router and the host outside, for whoever brings a control plane and nodes of its own.
type Site struct {
	LAN     *Namespace
	Outside *Host
}

// NewSite turns this process' own network namespace into the LAN.
func NewSite() (*Site, error) {
	lan, err := newLAN()
	if err != nil {
		return nil, fmt.Errorf("making the LAN: %w", err)
	}
	outside, err := newOutside(lan)
	if err != nil {
		return nil, fmt.Errorf("making the host outside: %w", err)
	}
	return &Site{LAN: lan, Outside: outside}, nil
}

// NewMachine makes the network of machine number index (1 to 200). Nothing listens on it.
func (s *Site) NewMachine(name string, index int) (*Host, error) {
	namespace, err := newNamespace(name)
	if err != nil {
		return nil, err
	}
	return wireMachine(s.LAN, namespace, hostOf(lan4, index), hostOf(lan6, index))
}

// Remove takes a machine's network away, with all that is in it, once no process is in there any more.
func (s *Site) Remove(machine *Host) error {
	if err := s.LAN.unplug(machine.Name); err != nil {
		return err
	}
	return machine.close()
}
