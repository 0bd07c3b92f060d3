package backendtest

import (
	"testing"

	"github.com/herd-ml/herd/backend/ref"
)

func TestRef(t *testing.T) { Run(t, ref.New()) }
