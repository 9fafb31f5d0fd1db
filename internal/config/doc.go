// Package config loads YAML configuration files strictly: a key that is unknown or given twice is an
// error that names file and line, so that a misspelt setting is never silently without effect.
package config
