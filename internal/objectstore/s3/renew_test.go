package s3

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// When keys are asked for, and what is done where none are to be had.
func TestRenewing(t *testing.T) {
	for name, c := range map[string]struct {
		life time.Duration // of the keys that are given; 0 if it is not known
		asks []time.Duration
		ends time.Duration // when there are no keys any more, if every question fails; 0 for never
	}{
		"an hour":    {time.Hour, []time.Duration{48 * time.Minute, 57*time.Minute + 36*time.Second}, time.Hour},
		"no end":     {0, []time.Duration{time.Minute, 2 * time.Minute, 3 * time.Minute}, 0},
		"ended soon": {10 * time.Second, []time.Duration{8 * time.Second, 9600 * time.Millisecond}, 10 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				var asked []time.Duration
				r := &renewing{given: Credentials{AccessKey: "a", SecretKey: "b"}, ask: func(context.Context) (Credentials, error) {
					asked = append(asked, time.Since(began))
					return Credentials{}, errors.New("away")
				}}
				if c.life > 0 {
					r.given.Expires = began.Add(c.life)
				}
				if v, err := r.Retrieve(); err != nil || v.AccessKeyID != "a" || len(asked) != 0 {
					t.Fatalf("%+v, %v, asked %v", v, err, asked)
				}
				for len(asked) < len(c.asks) {
					if r.IsExpired() {
						t.Fatalf("it would ask at %s and again at once", time.Since(began))
					}
					<-time.After(time.Until(r.next))
					if !r.IsExpired() {
						t.Fatalf("it would not ask at %s", time.Since(began))
					}
					if _, err := r.Retrieve(); err != nil {
						t.Fatalf("after %s: %v", time.Since(began), err)
					}
				}
				for i, at := range c.asks {
					if d := asked[i] - at; d < 0 || d > time.Millisecond {
						t.Errorf("asked at %v, want %v", asked, c.asks)
					}
				}
				if c.ends > 0 {
					<-time.After(time.Until(began.Add(c.ends)))
					if v, err := r.Retrieve(); err == nil {
						t.Errorf("keys that have expired: %+v", v)
					}
				}
			})
		})
	}
}
