// Package hosts tests requorum on hosts with addresses of their own and systemd as init.
package hosts
