package ec

import "vitastor/internal/invariant"

// gfPolynomial is x^8+x^4+x^3+x^2+1, whose root 2 generates all of GF(2^8).
const gfPolynomial = 0x11d

// gfExp[i] = 2^i, doubled so that sums of two logarithms need no modulo.
// gfLog is its inverse; gfLog[0] has no meaning.
var gfExp, gfLog = gfTables()

func gfTables() (exp [510]byte, log [256]uint16) {
	x := 1
	for i := range 255 {
		exp[i], exp[i+255] = byte(x), byte(x)
		log[x] = uint16(i)
		x <<= 1
		if x&0x100 != 0 {
			x ^= gfPolynomial
		}
	}
	return exp, log
}

func gfMul(a, b byte) byte {
	if a == 0 || b == 0 {
		return 0
	}
	return gfExp[gfLog[a]+gfLog[b]]
}

// gfInv is 1/a; a must not be 0.
func gfInv(a byte) byte {
	invariant.Must(a != 0, "ec: division by zero in GF(2^8)")
	return gfExp[255-gfLog[a]]
}

func newMatrix(rows, columns int) [][]byte {
	memory := make([]byte, rows*columns)
	matrix := make([][]byte, rows)
	for i := range matrix {
		matrix[i] = memory[i*columns : (i+1)*columns : (i+1)*columns]
	}
	return matrix
}

// parityMatrix is M of osd.md §7.2: m rows of k factors. The steps and their
// order are normative, as the result depends on them.
func parityMatrix(k, m int) [][]byte {
	v := vandermonde(k+m, k)
	for i := 1; i < k; i++ {
		reduceColumn(v, i)
	}
	for i := range k {
		for j := range k {
			invariant.Must(v[i][j] == 0 && i != j || v[i][j] == 1 && i == j, "ec: generator matrix is not systematic")
		}
	}
	parity := v[k:]
	for j := range k { // make the first row all ones
		scaleColumn(parity, j, gfInv(parity[0][j]))
	}
	for _, row := range parity[1:] { // make the first column all ones
		scale := gfInv(row[0])
		for j := range row {
			row[j] = gfMul(row[j], scale)
		}
	}
	return parity
}

// vandermonde is step 1: the extended Vandermonde matrix.
func vandermonde(rows, columns int) [][]byte {
	v := newMatrix(rows, columns)
	v[0][0] = 1
	v[rows-1][columns-1] = 1
	for i := 1; i < rows-1; i++ {
		power := byte(1)
		for j := range columns {
			v[i][j] = power
			power = gfMul(power, byte(i))
		}
	}
	return v
}

// reduceColumn is step 2: it makes row i of v the unit vector i.
func reduceColumn(v [][]byte, i int) {
	swap := i
	for v[swap][i] == 0 {
		swap++ // ends in time: v has full column rank
	}
	v[swap], v[i] = v[i], v[swap]
	scaleColumn(v, i, gfInv(v[i][i]))
	for j := range v[i] {
		t := v[i][j]
		if j == i || t == 0 {
			continue
		}
		for _, row := range v {
			row[j] ^= gfMul(t, row[i])
		}
	}
}

func scaleColumn(v [][]byte, column int, factor byte) {
	for _, row := range v {
		row[column] = gfMul(row[column], factor)
	}
}

// invert returns the inverse of the square matrix a, which it destroys. Every
// square part of M is invertible, so a singular one is a broken M.
func invert(a [][]byte) [][]byte {
	n := len(a)
	inverse := newMatrix(n, n)
	for i := range n {
		inverse[i][i] = 1
	}
	for i := range n {
		pivot := i
		for pivot < n && a[pivot][i] == 0 {
			pivot++
		}
		invariant.Must(pivot < n, "ec: singular part of the parity matrix")
		a[i], a[pivot] = a[pivot], a[i]
		inverse[i], inverse[pivot] = inverse[pivot], inverse[i]
		scale := gfInv(a[i][i])
		for j := range n {
			a[i][j] = gfMul(a[i][j], scale)
			inverse[i][j] = gfMul(inverse[i][j], scale)
		}
		for r := range n {
			if t := a[r][i]; r != i && t != 0 {
				addRow(a[r], t, a[i])
				addRow(inverse[r], t, inverse[i])
			}
		}
	}
	return inverse
}

// addRow adds factor * in to out; for short rows.
func addRow(out []byte, factor byte, in []byte) {
	for j, x := range in {
		out[j] ^= gfMul(factor, x)
	}
}
