/* Prints, for k = 1..20 and m = 1..8, the FNV-1a checksum of the parity chunks
 * that the jerasure library computes (reed_sol_van, w = 8) from the data of
 * oracle_test.go, and the checksum of all chunks after the first min(k, m) data
 * chunks were lost and decoded. Used by oracle_test.go only.
 * Build: gcc oracle.c -o oracle -I/usr/include/jerasure -lJerasure */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <jerasure.h>
#include <reed_sol.h>

enum { CHUNK = 1024, MAX_K = 20, MAX_M = 8 };

static uint64_t fnv1a(uint64_t sum, const char *bytes, int n)
{
	for (int i = 0; i < n; i++)
		sum = (sum ^ (uint8_t)bytes[i]) * 0x100000001b3u;
	return sum;
}

int main(void)
{
	static char memory[MAX_K + MAX_M][CHUNK] __attribute__((aligned(64)));
	char *chunks[MAX_K + MAX_M];
	for (int k = 1; k <= MAX_K; k++) {
		for (int m = 1; m <= MAX_M; m++) {
			uint32_t x = k * 100 + m;
			for (int i = 0; i < k + m; i++)
				chunks[i] = memory[i];
			for (int i = 0; i < k; i++)
				for (int j = 0; j < CHUNK; j++) {
					x = x * 1664525 + 1013904223;
					chunks[i][j] = x >> 24;
				}
			int *matrix = reed_sol_vandermonde_coding_matrix(k, m, 8);
			if (!matrix)
				return 1;
			jerasure_matrix_encode(k, m, 8, matrix, chunks, chunks + k, CHUNK);
			uint64_t parity = 0xcbf29ce484222325u, all = parity;
			for (int i = 0; i < m; i++)
				parity = fnv1a(parity, chunks[k + i], CHUNK);
			int lost[MAX_M + 1], n = k < m ? k : m;
			for (int i = 0; i < n; i++) {
				lost[i] = i;
				memset(chunks[i], 0xee, CHUNK);
			}
			lost[n] = -1;
			if (jerasure_matrix_decode(k, m, 8, matrix, 0, lost, chunks, chunks + k, CHUNK))
				return 2;
			for (int i = 0; i < k + m; i++)
				all = fnv1a(all, chunks[i], CHUNK);
			printf("%d+%d %016llx %016llx\n", k, m, (unsigned long long)parity, (unsigned long long)all);
			free(matrix);
		}
	}
	return 0;
}
