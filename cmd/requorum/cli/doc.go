// Package cli is requorum's command line for operators: it asks the controller, follows operations,
// and answers with an exit code that scripts can rely on. The commands of the controller and of the
// agent are added by package main.
package cli
