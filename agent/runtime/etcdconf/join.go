package etcdconf

import (
	"errors"
	"slices"
	"strings"
)

// ErrConfigFile says that etcd's configuration is in a file, so that flags and variables have no effect.
var ErrConfigFile = errors.New("etcd is configured by a file, which excludes flags; set initial-cluster and initial-cluster-state there by hand, or configure etcd by flags")

// bootstrap are the settings that say how a member without data begins.
var bootstrap = []string{
	"initial-cluster", "initial-cluster-state", "force-new-cluster",
	"discovery", "discovery-endpoints", "discovery-token", "discovery-srv", "discovery-srv-name",
}

// Joining returns etcd's arguments and environment changed so that a member without data joins the
// cluster initialCluster, given as name=url pairs joined by commas. It fails with ErrConfigFile if
// neither would be read.
func Joining(args, env []string, initialCluster string) (joinArgs, joinEnv []string, err error) {
	flags, err := parseFlags(args)
	if err != nil {
		return nil, nil, err
	}
	if flags["config-file"] != "" || environment(env)["config-file"] != "" {
		return nil, nil, ErrConfigFile
	}
	for i := 0; i < len(args) && args[i] != "--"; {
		f, ok := parseFlag(args[i:])
		if !ok {
			break
		}
		if !slices.Contains(bootstrap, f.name) {
			joinArgs = append(joinArgs, args[i:i+f.args]...)
		}
		i += f.args
	}
	joinArgs = append(joinArgs, "--initial-cluster="+initialCluster, "--initial-cluster-state=existing")
	// etcd refuses to start when a flag and its variable are both there.
	joinEnv = slices.DeleteFunc(slices.Clone(env), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		flag := strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(name, "ETCD_"), "_", "-"))
		return strings.HasPrefix(name, "ETCD_") && slices.Contains(bootstrap, flag)
	})
	return joinArgs, joinEnv, nil
}
