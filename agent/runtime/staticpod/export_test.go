package staticpod

import "context"

// SetFault makes r call fault before each change on disk.
func (r *Runtime) SetFault(fault func(step string) error) { r.fault = fault }

// SetRestartKubelet takes the place of systemd.
func (r *Runtime) SetRestartKubelet(restart func(context.Context) error) { r.restartKubelet = restart }
