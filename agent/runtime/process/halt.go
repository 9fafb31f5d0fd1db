package process

import "context"

// Halt ends etcd without changing whether it should run: the next agent starts it again. It is for who
// takes down a whole node, as a reboot does.
func (r *Runtime) Halt(ctx context.Context) error {
	return r.exclusively(ctx, func() error {
		rec, err := r.find()
		if err != nil || rec == nil {
			return err
		}
		return r.end(ctx, rec)
	})
}
