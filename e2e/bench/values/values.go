// Package values makes the data of the benchmark: the same from the same seed.
package values

import (
	"math/rand/v2"
)

// Smallest and largest value, in bytes.
const (
	Smallest = 1 << 10
	Largest  = 10 << 10
)

// Values makes values of 1 to 10 KiB, every size as likely as another. Of three values one is random, as what is
// encrypted or compressed is, and two are mixed from short words and random bytes, as encoded objects are: they
// become about a third smaller by compression. It is not safe for concurrent use.
type Values struct {
	random *rand.ChaCha8
	sizes  *rand.Rand
}

// New returns values made from a seed; another stream of the same seed makes others.
func New(seed, stream uint64) *Values {
	var key [32]byte
	for i := range 8 {
		key[i], key[8+i] = byte(seed>>(8*i)), byte(stream>>(8*i))
	}
	return &Values{random: rand.NewChaCha8(key), sizes: rand.New(rand.NewPCG(seed, stream))} //nolint:gosec // data, no secret
}

var words = []string{`"metadata":{"name":"`, `"namespace":"kube-system"`, `"uid":"`, `"labels":{"app":"`, `"resourceVersion":"`, `"spec":{"containers":[`}

// Next makes a value.
func (v *Values) Next() []byte {
	value := make([]byte, Smallest+v.sizes.IntN(Largest-Smallest+1))
	_, _ = v.random.Read(value) // never fails, by its contract
	if v.sizes.IntN(3) == 0 {
		return value
	}
	for at := 0; at < len(value); at += 32 {
		at += copy(value[at:], words[v.sizes.IntN(len(words))])
	}
	return value
}
