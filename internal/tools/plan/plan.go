// Package plan pins the types of system-upgrade-controller's Plan and the tool that makes a CustomResourceDefinition of them, which is
// how that project makes its own. It has a module of its own, for neither is any of requorum's dependencies.
package plan

import (
	_ "github.com/rancher/system-upgrade-controller/pkg/apis/upgrade.cattle.io/v1" // whose definition is made
)
