// A reporter for `node --test` that counts outcomes for the published table: one JSON object a
// line with file, test, outcome (passed, failed, skipped) and why it did not pass.

import path from 'node:path'

const OUTCOMES = { 'test:pass': 'passed', 'test:fail': 'failed' }

export default async function* tally(source) {
  for await (const { type, data } of source) {
    // Suites and files report too; only tests count.
    if (!(type in OUTCOMES) || data.details?.type === 'suite' || !data.file) continue
    if (path.resolve(data.name) === data.file) continue
    const isSkipped = data.skip !== undefined || data.todo !== undefined
    const error = data.details?.error
    const row = {
      file: path.basename(data.file),
      test: data.name,
      outcome: isSkipped ? 'skipped' : OUTCOMES[type],
      why: String(error?.cause?.message ?? error?.message ?? data.skip ?? '').slice(0, 500),
    }
    yield JSON.stringify(row) + '\n'
  }
}
