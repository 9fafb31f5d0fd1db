package rke2

// SetFault makes r call fault before each change.
func (r *Runtime) SetFault(fault func(step string) error) { r.fault = fault }
