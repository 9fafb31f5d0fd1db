package catalog

import requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

// SameFile tells whether two manifests describe the same file on nodes: the same snapshot, sealed at once or not at all.
func SameFile(a, b *requorumv1.Manifest) bool { return FileDigest(a) == FileDigest(b) }

// FileDigest tells files of snapshots on nodes apart.
func FileDigest(m *requorumv1.Manifest) string {
	return m.GetSha256() + "/" + m.GetLocal().GetSha256()
}

// FileSize is the size of the file that holds a snapshot on nodes, in bytes.
func FileSize(m *requorumv1.Manifest) int64 {
	if l := m.GetLocal(); l != nil {
		return l.GetSize()
	}
	return m.GetSize()
}
