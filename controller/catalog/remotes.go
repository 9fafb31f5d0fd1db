package catalog

import (
	"errors"

	"github.com/requorum/requorum/controller/store"
)

// RemoteMarker returns the marker of a directory remote, empty while none is known.
func (c *Catalog) RemoteMarker(remote string) (marker string, err error) {
	err = c.store.View(func(tx store.Tx) error {
		value, err := tx.Get(store.Remotes, remote)
		marker = string(value)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		return err
	})
	return marker, err
}

// MarkRemote keeps the marker of a directory remote, unless another one is known, and returns the one that is.
func (c *Catalog) MarkRemote(remote, marker string) (string, error) {
	known, err := c.RemoteMarker(remote)
	if err != nil || known != "" {
		return known, err
	}
	known = marker
	err = c.store.Update(func(tx store.Tx) error {
		value, err := tx.Get(store.Remotes, remote)
		if errors.Is(err, store.ErrNotFound) {
			return tx.Put(store.Remotes, remote, []byte(marker))
		}
		known = string(value)
		return err
	})
	return known, err
}
