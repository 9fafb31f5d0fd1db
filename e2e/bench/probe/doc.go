// Package probe sees a cluster as a client does: it writes and reads all the time, and notes when it could.
package probe
