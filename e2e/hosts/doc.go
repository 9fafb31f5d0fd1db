// Package hosts tests what is installed on hosts: the packages, their units with each runtime, and RKE2 servers.
package hosts
