// Package names says which names are allowed for clusters, nodes, snapshots and operators, so that a
// name can stand in a path, an object key or a URL as it is.
package names

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// MaxLength is the longest name allowed, in bytes.
const MaxLength = 128

// Error says why a name is not allowed.
type Error struct {
	Kind   string // what is named: cluster, node, snapshot, operator
	Name   string // as given
	Reason string
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s name %s %s; names are 1 to %d characters of A-Z a-z 0-9 . _ - and do not begin with a dot", e.Kind, shown(e.Name), e.Reason, MaxLength)
}

// Check returns an *Error unless name is allowed; kind says what is named.
func Check(kind, name string) error {
	fail := func(reason string) error { return &Error{Kind: kind, Name: name, Reason: reason} }
	switch {
	case name == "":
		return fail("is empty")
	case len(name) > MaxLength:
		return fail(fmt.Sprintf("is %d bytes long", len(name)))
	case name[0] == '.':
		return fail("begins with a dot")
	}
	if i := strings.IndexFunc(name, notAllowed); i >= 0 {
		_, size := utf8.DecodeRuneInString(name[i:])
		return fail(fmt.Sprintf("has %q in it", name[i:i+size]))
	}
	return nil
}

// shown is the name in quotes, or its beginning where it is long.
func shown(name string) string {
	if len(name) <= MaxLength {
		return strconv.Quote(name)
	}
	return strconv.Quote(name[:MaxLength/4]) + "…"
}

func notAllowed(r rune) bool {
	switch {
	case 'A' <= r && r <= 'Z', 'a' <= r && r <= 'z', '0' <= r && r <= '9':
		return false
	}
	return r != '.' && r != '_' && r != '-'
}
