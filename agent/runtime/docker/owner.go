package docker

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"
)

// owner returns the user and group that the container runs as. Names mean what the container's own /etc/passwd and
// /etc/group say.
func (c *container) owner(ctx context.Context, engine *client.Client) (uid, gid int, err error) {
	if c.user == "" {
		return 0, 0, nil
	}
	user, group, hasGroup := strings.Cut(c.user, ":")
	passwd, err := c.readDatabase(ctx, engine, "/etc/passwd")
	if err != nil {
		return 0, 0, err
	}
	if uid, err = number(passwd, user); err != nil {
		return 0, 0, fmt.Errorf("user %q of container %s: %w", user, c.name, err)
	}
	if !hasGroup {
		return uid, primaryGroup(passwd, uid), nil
	}
	groups, err := c.readDatabase(ctx, engine, "/etc/group")
	if err != nil {
		return 0, 0, err
	}
	if gid, err = number(groups, group); err != nil {
		return 0, 0, fmt.Errorf("group %q of container %s: %w", group, c.name, err)
	}
	return uid, gid, nil
}

// Fields of a line in /etc/passwd and, as far as it has them, /etc/group.
const (
	nameField = iota
	_
	numberField
	groupField
)

var errNoAccount = errors.New("it is not in the container's /etc/passwd or /etc/group")

// number returns the number of the account with this name, or the name itself if it is a number.
func number(database [][]string, name string) (int, error) {
	for _, line := range database {
		if line[nameField] == name {
			return strconv.Atoi(line[numberField])
		}
	}
	n, err := strconv.Atoi(name)
	if err != nil {
		return 0, errNoAccount
	}
	return n, nil
}

// primaryGroup returns the group of a user, which is root's if there is no such user: the engine takes it so.
func primaryGroup(passwd [][]string, uid int) int {
	for _, line := range passwd {
		if line[numberField] != strconv.Itoa(uid) || len(line) <= groupField {
			continue
		}
		if gid, err := strconv.Atoi(line[groupField]); err == nil {
			return gid
		}
	}
	return 0
}

// readDatabase returns the lines of a file of accounts in the container, each split into at least three fields. Where
// there is no file it returns none.
func (c *container) readDatabase(ctx context.Context, engine *client.Client, path string) ([][]string, error) {
	archive, err := engine.CopyFromContainer(ctx, c.id, client.CopyFromContainerOptions{SourcePath: path})
	if errdefs.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s of container %s: %w", path, c.name, err)
	}
	files := tar.NewReader(archive.Content)
	var text bytes.Buffer
	if _, err = files.Next(); err == nil {
		_, err = text.ReadFrom(files)
	}
	if err := errors.Join(err, archive.Content.Close()); err != nil {
		return nil, fmt.Errorf("read %s of container %s: %w", path, c.name, err)
	}
	var lines [][]string
	for line := range strings.Lines(text.String()) {
		if fields := strings.Split(strings.TrimSpace(line), ":"); len(fields) > numberField {
			lines = append(lines, fields)
		}
	}
	return lines, nil
}
