package harness

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// KV is all that etcd keeps of a key.
type KV struct {
	Value                string
	Version, Create, Mod int64
	Lease                int64
}

// State is the content of a member.
type State map[string]KV

// Diff says how s differs from want, in few words; empty if it does not.
func (s State) Diff(want State) string {
	var missing, extra, changed []string
	for _, key := range slices.Sorted(maps.Keys(want)) {
		got, ok := s[key]
		switch {
		case !ok:
			missing = append(missing, key)
		case got != want[key]:
			changed = append(changed, fmt.Sprintf("%s is %+v, want %+v", key, got, want[key]))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(s)) {
		if _, ok := want[key]; !ok {
			extra = append(extra, key)
		}
	}
	if len(missing)+len(extra)+len(changed) == 0 {
		return ""
	}
	first := func(all []string) []string { return all[:min(3, len(all))] }
	return fmt.Sprintf("%d keys are missing %v, %d too many %v, %d changed %v", len(missing), first(missing), len(extra), first(extra), len(changed), first(changed))
}

// Client returns a client of one node's member.
func (c *Cluster) Client(node string) *clientv3.Client {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if client := c.clients[node]; client != nil {
		return client
	}
	cfg := clientv3.Config{
		Endpoints: []string{c.Endpoint(node)}, DialTimeout: Patience, Logger: zap.NewNop(),
		TLS: c.Options.ClientTLS, Username: c.Options.Username, Password: c.Options.Password,
	}
	client, err := clientv3.New(cfg)
	c.must(err)
	c.clients[node] = client
	return client
}

// DropClients makes the next use of every member a new connection, with the options of then.
func (c *Cluster) DropClients() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for node, client := range c.clients {
		_ = client.Close() // says only that its context ended
		delete(c.clients, node)
	}
}

// Endpoint is the client URL of a node's member.
func (c *Cluster) Endpoint(node string) string {
	url := c.Node(node).ClientURL
	if c.Options.HTTPS {
		return "https" + url[len("http"):]
	}
	return url
}

// anyClient returns a client of the first node whose member serves.
func (c *Cluster) anyClient() *clientv3.Client {
	c.t.Helper()
	var found *clientv3.Client
	c.must(c.until("no member serves", func(ctx context.Context) error {
		var errs []error
		for _, n := range c.Nodes {
			client := c.Client(n.Name)
			one, cancel := context.WithTimeout(ctx, 2*poll*10)
			_, err := client.Get(one, "any")
			cancel()
			if err == nil {
				found = client
				return nil
			}
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	}))
	return found
}

const txnPuts = 100 // puts in one transaction: below etcd's limit of 128

// Write puts n new keys, one in ten with a lease, and writes one in five of the older keys again.
func (c *Cluster) Write(n int) {
	c.t.Helper()
	client := c.anyClient()
	ctx, cancel := c.patient("the writes did not end")
	defer cancel()
	lease, err := client.Grant(ctx, 3600)
	c.must(err)
	var puts []clientv3.Op
	flush := func() {
		if len(puts) > 0 {
			_, err := client.Txn(ctx).Then(puts...).Commit()
			c.must(err)
		}
		puts = nil
	}
	add := func(key int, opts ...clientv3.OpOption) {
		if puts = append(puts, clientv3.OpPut(keyName(key), "value "+strconv.Itoa(key)+" of "+strconv.Itoa(c.written), opts...)); len(puts) == txnPuts {
			flush()
		}
	}
	for key := 0; key < c.written; key += 5 {
		add(key)
	}
	flush()
	for range n {
		if c.written%10 == 0 {
			add(c.written, clientv3.WithLease(lease.ID))
		} else {
			add(c.written)
		}
		c.written++
	}
	flush()
}

// Delete deletes the n keys that were written first and are still there.
func (c *Cluster) Delete(n int) {
	c.t.Helper()
	client := c.anyClient()
	ctx, cancel := c.patient("the deletes did not end")
	defer cancel()
	keys, err := client.Get(ctx, "", clientv3.WithPrefix(), clientv3.WithKeysOnly(), clientv3.WithLimit(int64(n)))
	c.must(err)
	for _, kv := range keys.Kvs {
		_, err := client.Delete(ctx, string(kv.Key))
		c.must(err)
	}
}

func keyName(n int) string { return fmt.Sprintf("/e2e/%06d", n) }

// State reads all that one node's member holds, from that member alone.
func (c *Cluster) State(node string) State {
	c.t.Helper()
	ctx, cancel := c.patient("reading the keys did not end")
	defer cancel()
	var state State
	err := c.until("the member of "+node+" does not answer", func(context.Context) (err error) {
		state, err = c.read(ctx, node)
		return err
	})
	c.must(err)
	return state
}

func (c *Cluster) read(ctx context.Context, node string) (State, error) {
	resp, err := c.Client(node).Get(ctx, "", clientv3.WithPrefix(), clientv3.WithSerializable())
	if err != nil {
		return nil, err
	}
	state := make(State, len(resp.Kvs))
	for _, kv := range resp.Kvs {
		state[string(kv.Key)] = KV{Value: string(kv.Value), Version: kv.Version, Create: kv.CreateRevision, Mod: kv.ModRevision, Lease: kv.Lease}
	}
	return state, nil
}

// Now reads what the cluster holds. It waits until all nodes' members hold the same.
func (c *Cluster) Now(nodes ...string) State {
	c.t.Helper()
	if len(nodes) == 0 {
		nodes = c.NodeNames()
	}
	var state State
	c.must(c.until("the members do not hold the same", func(context.Context) error {
		state = c.State(nodes[0])
		for _, node := range nodes[1:] {
			if diff := c.State(node).Diff(state); diff != "" {
				return fmt.Errorf("%s compared with %s: %s", node, nodes[0], diff)
			}
		}
		return nil
	}))
	return state
}
