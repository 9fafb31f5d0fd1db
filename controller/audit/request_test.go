package audit

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/access"
	"github.com/requorum/requorum/internal/redact"
)

// looksSecret is what the names of secret fields have. Bytes can hold anything.
var looksSecret = regexp.MustCompile(`(?i)secret|token|passw|passphrase|key|identit|credential|private|auth|pin|cookie|session`)

// notSecret are fields that look like secrets and are none, with why.
var notSecret = map[string]string{
	"requorum.agent.v1.EnrollRequest.token_id":        "names a token, and lets nobody in without its secret",
	"requorum.agent.v1.EnrollRequest.csr":             "a certificate request is public: a key's public half, signed",
	"requorum.agent.v1.RenewRequest.csr":              "as above",
	"requorum.v1.IssueOperatorCertificateRequest.csr": "as above",
}

// TestEveryFieldThatLooksSecretIsClassified fails for a new field of a request that is noted in the audit log until
// somebody has marked it with debug_redact in its .proto file, or said here that it is no secret.
func TestEveryFieldThatLooksSecretIsClassified(t *testing.T) {
	methods, fields := 0, 0
	eachAudited(func(method string, request protoreflect.MessageDescriptor) {
		methods++
		eachField(request, map[protoreflect.FullName]bool{}, func(field protoreflect.FieldDescriptor) {
			fields++
			name := string(field.FullName())
			suspicious := looksSecret.MatchString(string(field.Name())) || field.Kind() == protoreflect.BytesKind
			if suspicious && !redact.Secret(field) && notSecret[name] == "" {
				t.Errorf("%s, in the request of %s, looks like a secret: mark it with [debug_redact = true], or say in notSecret why it is none", name, method)
			}
			if redact.Secret(field) && notSecret[name] != "" {
				t.Errorf("%s is marked as secret and in notSecret", name)
			}
		})
	})
	if methods < 12 || fields < 30 {
		t.Errorf("%d methods with %d fields were looked at: too few", methods, fields)
	}
}

func eachAudited(f func(method string, request protoreflect.MessageDescriptor)) {
	protoregistry.GlobalFiles.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				method := service.Methods().Get(j)
				if full := "/" + string(service.FullName()) + "/" + string(method.Name()); access.Audited(full) {
					f(full, method.Input())
				}
			}
		}
		return true
	})
}

func eachField(m protoreflect.MessageDescriptor, seen map[protoreflect.FullName]bool, f func(protoreflect.FieldDescriptor)) {
	if seen[m.FullName()] || strings.HasPrefix(string(m.FullName()), "google.protobuf.") {
		return
	}
	seen[m.FullName()] = true
	for i := range m.Fields().Len() {
		field := m.Fields().Get(i)
		f(field)
		inner := field.Message()
		if field.IsMap() {
			inner = field.MapValue().Message()
		}
		if inner != nil {
			eachField(inner, seen, f)
		}
	}
}

func TestCallsThatChangeSomethingAreAudited(t *testing.T) {
	var audited []string
	eachAudited(func(method string, _ protoreflect.MessageDescriptor) {
		audited = append(audited, method[strings.LastIndex(method, "/")+1:])
	})
	for _, want := range []string{
		"Enroll", "Renew", "SaveSnapshot", "DeleteSnapshot", "ImportSnapshot", "ExportSnapshot", "CheckSnapshot", "DistributeSnapshot",
		"StartRestore", "CancelOperation", "CreateToken", "IssueOperatorCertificate", "RevokeOperatorCertificate", "RemoveNode",
	} {
		if !slices.Contains(audited, want) {
			t.Errorf("%s is not audited", want)
		}
	}
	for _, method := range []string{
		requorumv1.ClusterService_GetCluster_FullMethodName, requorumv1.RestoreService_PlanRestore_FullMethodName,
		requorumv1.AuditService_ListEntries_FullMethodName, agentv1.SessionService_Heartbeat_FullMethodName, "/nobody/knows",
	} {
		if access.Audited(method) {
			t.Errorf("%s only looks, and is audited", method)
		}
	}
}

func TestSecretsAreLeftOutOfRequests(t *testing.T) {
	req := &agentv1.EnrollRequest{TokenId: "id", TokenSecret: "hush", Node: "etcd-1", Csr: []byte("csr")}
	e := &requorumv1.AuditEntry{}
	if err := setRequest(e, req); err != nil {
		t.Fatal(err)
	}
	text := e.String()
	if strings.Contains(text, "hush") || !strings.Contains(text, "etcd-1") || !slices.Equal(e.GetRedacted(), []string{"token_secret"}) {
		t.Error(text)
	}
	if req.GetTokenSecret() != "hush" {
		t.Error("the request itself was changed")
	}
}

func TestARequestThatIsTooLargeIsLeftOut(t *testing.T) {
	e := &requorumv1.AuditEntry{}
	big := &requorumv1.SaveSnapshotRequest{Cluster: "prod", Labels: map[string]string{"l": strings.Repeat("x", longestRequest)}}
	if err := setRequest(e, big); err != nil {
		t.Fatal(err)
	}
	if e.GetRequest() != nil || e.GetLeftOutBytes() <= longestRequest || proto.Size(e) > 100 {
		t.Errorf("%d bytes, %d left out", proto.Size(e), e.GetLeftOutBytes())
	}
}
