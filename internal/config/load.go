package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"strconv"

	"go.yaml.in/yaml/v3"
)

// Error is one thing that is wrong with a configuration file.
type Error struct {
	File    string // path as given to Load
	Line    int    // 1 is the first line; 0 where it is not about a line
	Message string
}

func (e *Error) Error() string {
	if e.Line == 0 {
		return e.File + ": " + e.Message
	}
	return fmt.Sprintf("%s:%d: %s", e.File, e.Line, e.Message)
}

// Load reads the YAML file at path into the struct that into points to. Fields the file does not name
// keep the values they have, so that defaults are set before. It returns an error that wraps
// fs.ErrNotExist if there is no such file, and otherwise joined *Error, one for each thing wrong.
func Load(path string, into any) error {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("there is no configuration file %s: %w", path, fs.ErrNotExist)
	}
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	return parse(path, data, into)
}

func parse(path string, data []byte, into any) error {
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var document yaml.Node
	if err := decoder.Decode(&document); err != nil {
		if errors.Is(err, io.EOF) {
			return nil // an empty file sets nothing
		}
		return located(path, err)
	}
	var second yaml.Node
	if err := decoder.Decode(&second); !errors.Is(err, io.EOF) {
		if err != nil {
			return located(path, err)
		}
		return &Error{File: path, Line: second.Line, Message: "a second YAML document begins here; only one is read"}
	}
	if problems := checkKeys(path, &document, into); len(problems) > 0 {
		return errors.Join(problems...)
	}
	if err := document.Decode(into); err != nil {
		return located(path, err)
	}
	return nil
}

var yamlLine = regexp.MustCompile(`^(?:yaml: )?line (\d+): (.*)$`)

// located turns yaml's "line 3: …" into *Error with file and line.
func located(path string, err error) error {
	var typeErr *yaml.TypeError
	if !errors.As(err, &typeErr) {
		return locatedOne(path, err.Error())
	}
	problems := make([]error, 0, len(typeErr.Errors))
	for _, message := range typeErr.Errors {
		problems = append(problems, locatedOne(path, message))
	}
	return errors.Join(problems...)
}

func locatedOne(path, message string) error {
	if m := yamlLine.FindStringSubmatch(message); m != nil {
		if line, err := strconv.Atoi(m[1]); err == nil {
			return &Error{File: path, Line: line, Message: m[2]}
		}
	}
	return &Error{File: path, Message: message}
}
