package catalog_test

import "testing"

func TestTheFirstMarkerOfARemoteStays(t *testing.T) {
	c := open(t)
	if marker, err := c.RemoteMarker("nfs"); err != nil || marker != "" {
		t.Errorf("%q, %v", marker, err)
	}
	for _, found := range []string{"one", "two", "one"} {
		if marker, err := c.MarkRemote("nfs", found); err != nil || marker != "one" {
			t.Errorf("%q, %v", marker, err)
		}
	}
	if marker, err := c.RemoteMarker("nfs"); err != nil || marker != "one" {
		t.Errorf("%q, %v", marker, err)
	}
	if marker, err := c.MarkRemote("other", "two"); err != nil || marker != "two" {
		t.Errorf("%q, %v", marker, err)
	}
}
