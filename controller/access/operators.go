package access

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/store"
	"github.com/requorum/requorum/internal/pki"
)

// firstAdmin asks for the certificate that a controller makes for itself.
const firstAdmin = "the controller"

// IssueOperator signs a certificate for an operator, notes it, and returns it with the CA's. A ttl of 0
// stands for the default. The error is ErrInvalid for a name, role, ttl or request that is not acceptable.
func (a *Access) IssueOperator(ctx context.Context, csr []byte, name string, role requorumv1.Role, ttl time.Duration) (certPEM, caPEM []byte, err error) {
	fail := func(err error) ([]byte, []byte, error) {
		return nil, nil, fmt.Errorf("issue operator certificate: %w: %w", ErrInvalid, err)
	}
	id := pki.OperatorIdentity(role, name)
	if err := id.Check(); err != nil {
		return fail(err)
	}
	if ttl < 0 {
		return fail(fmt.Errorf("a certificate that lives for %s is of no use", ttl))
	}
	if ttl == 0 {
		ttl = a.options.OperatorTTL
	}
	pub, err := pki.PublicKeyFromCSR(csr)
	if err != nil {
		return fail(err)
	}
	if certPEM, err = a.authority.Issue(pub, id, ttl, nil); err != nil {
		return nil, nil, err
	}
	if err := a.noteOperator(certPEM, caller(ctx)); err != nil {
		return nil, nil, fmt.Errorf("note operator certificate: %w", err)
	}
	a.log.Info("operator certificate issued", "operator", id.String(), "ttl", ttl, "by", caller(ctx))
	return certPEM, a.authority.CAPEM(), nil
}

// NoteFirstAdmin notes the certificate, PEM, that a controller makes for the first admin, so that it is listed
// and can be revoked as any other.
func (a *Access) NoteFirstAdmin(certPEM []byte) error {
	if err := a.noteOperator(certPEM, firstAdmin); err != nil {
		return fmt.Errorf("note the first admin's certificate: %w", err)
	}
	return nil
}

// noteOperator stores what is known of a certificate, and forgets those that have expired.
func (a *Access) noteOperator(certPEM []byte, by string) error {
	block, _ := pem.Decode(certPEM)
	if block == nil {
		return errors.New("not PEM")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return err
	}
	id, err := pki.FromCertificate(cert)
	if err != nil {
		return err
	}
	record := &requorumv1.OperatorCertificate{
		Serial: serialOf(cert), Name: id.Operator, Role: id.Role,
		Issued: timestamppb.New(a.options.Now()), Expires: timestamppb.New(cert.NotAfter), IssuedBy: by,
	}
	return a.store.Update(func(tx store.Tx) error {
		if err := a.pruneOperators(tx); err != nil {
			return err
		}
		return store.Save(tx, store.Operators, record.GetSerial(), record)
	})
}

// pruneOperators forgets certificates that have expired. One that was revoked unknown is kept for ever.
func (a *Access) pruneOperators(tx store.Tx) error {
	all, err := operators(tx)
	for _, record := range all {
		if record.GetExpires() != nil && record.GetExpires().AsTime().Before(a.options.Now()) {
			err = errors.Join(err, tx.Delete(store.Operators, record.GetSerial()))
		}
	}
	return err
}

func operators(tx store.Tx) ([]*requorumv1.OperatorCertificate, error) {
	var all []*requorumv1.OperatorCertificate
	err := tx.Each(store.Operators, "", func(serial string, _ []byte) error {
		record := new(requorumv1.OperatorCertificate)
		if err := store.Load(tx, store.Operators, serial, record); err != nil {
			return fmt.Errorf("operator certificate %s: %w", serial, err)
		}
		all = append(all, record)
		return nil
	})
	return all, err
}

// Operators returns the certificates of operators that have not expired, by name and then by time of issue.
func (a *Access) Operators() ([]*requorumv1.OperatorCertificate, error) {
	var all []*requorumv1.OperatorCertificate
	err := a.store.View(func(tx store.Tx) (err error) {
		all, err = operators(tx)
		return err
	})
	all = slices.DeleteFunc(all, func(c *requorumv1.OperatorCertificate) bool {
		return c.GetExpires() != nil && c.GetExpires().AsTime().Before(a.options.Now())
	})
	slices.SortStableFunc(all, func(x, y *requorumv1.OperatorCertificate) int {
		if by := strings.Compare(x.GetName(), y.GetName()); by != 0 {
			return by
		}
		return x.GetIssued().AsTime().Compare(y.GetIssued().AsTime())
	})
	return all, err
}

// RevokeOperator refuses the certificate of that serial number, hexadecimal, from now on, and ends its calls.
// A certificate that is not known here can be revoked, too: a store that came back from an older copy does not
// know those that were issued since. The error is ErrInvalid for what is not a serial number.
func (a *Access) RevokeOperator(ctx context.Context, serial string) (*requorumv1.OperatorCertificate, error) {
	number, ok := new(big.Int).SetString(strings.ReplaceAll(serial, ":", ""), 16)
	if !ok || number.Sign() <= 0 || number.BitLen() > 160 { // the most that RFC 5280 allows
		return nil, fmt.Errorf("revoke operator certificate: %w: %q is not a serial number; requorum access ls shows them", ErrInvalid, serial)
	}
	record := &requorumv1.OperatorCertificate{Serial: number.Text(16)}
	err := a.store.Update(func(tx store.Tx) error {
		err := store.Load(tx, store.Operators, record.GetSerial(), record)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		if record.GetRevoked() != nil {
			return nil
		}
		record.Revoked, record.RevokedBy = timestamppb.New(a.options.Now()), caller(ctx)
		return store.Save(tx, store.Operators, record.GetSerial(), record)
	})
	if err != nil {
		return nil, fmt.Errorf("revoke operator certificate %s: %w", record.GetSerial(), err)
	}
	a.log.Info("operator certificate revoked", "serial", record.GetSerial(), "operator", record.GetName(), "by", caller(ctx))
	a.calls.revoke(operatorSerial(record.GetSerial()), revokedError(record))
	return record, nil
}

// CheckOperator returns nil unless cert, which TLS has verified, is revoked: ErrRevoked, or else the store's error.
func (a *Access) CheckOperator(cert *x509.Certificate) error {
	var record requorumv1.OperatorCertificate
	err := a.store.View(func(tx store.Tx) error { return store.Load(tx, store.Operators, serialOf(cert), &record) })
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil // signed before certificates were noted, or by the same CA elsewhere
	case err != nil:
		return err
	case record.GetRevoked() != nil:
		return revokedError(&record)
	}
	return nil
}

func revokedError(record *requorumv1.OperatorCertificate) error {
	return fmt.Errorf("operator certificate %s: %w; ask an admin for a new one", record.GetSerial(), ErrRevoked)
}

// serialOf returns a certificate's serial number as records have it.
func serialOf(cert *x509.Certificate) string { return cert.SerialNumber.Text(16) }
