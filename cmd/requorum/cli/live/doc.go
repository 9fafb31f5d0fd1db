// Package live follows an operation while it runs: it watches the controller's stream, goes on when the
// stream breaks, and shows what happens, on a terminal in place and elsewhere line by line.
package live
