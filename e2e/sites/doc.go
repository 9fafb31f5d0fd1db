// Package sites tests requorum, installed from its package, on hosts that are struck while they restore.
package sites
