package etcdtest_test

import (
	"context"
	"testing"
	"time"

	"github.com/requorum/requorum/internal/etcdtest"
)

func TestClusterServesInEveryShape(t *testing.T) {
	for name, o := range map[string]etcdtest.Options{
		"one member":                      {},
		"three members":                   {Members: 3},
		"client certificates":             {TLS: true},
		"authentication":                  {Auth: true},
		"certificates and authentication": {Members: 3, TLS: true, Auth: true},
	} {
		t.Run(name, func(t *testing.T) {
			c := etcdtest.Start(t, o)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if _, err := c.Client(t).Put(ctx, "k", "v"); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestRestartedMembersKeepTheirData(t *testing.T) {
	c := etcdtest.Start(t, etcdtest.Options{Members: 3})
	client := c.Client(t)
	if _, err := client.Put(t.Context(), "k", "v"); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	c.Stop(0, 1, 2)
	t.Logf("stopped in %v", time.Since(began))
	c.Restart(0, 1, 2)
	t.Logf("restarted in %v", time.Since(began))
	got, err := client.Get(t.Context(), "k")
	if err != nil || len(got.Kvs) != 1 || string(got.Kvs[0].Value) != "v" {
		t.Fatalf("got %v, %v", got, err)
	}
}
