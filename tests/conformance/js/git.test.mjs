import assert from 'node:assert/strict'
import { test } from 'node:test'
import { withSandbox } from './fixtures.mjs'

test(
  'init, commit, branch',
  withSandbox(async (sandbox) => {
    await sandbox.git.init('repo', { initialBranch: 'main' })
    await sandbox.git.configureUser('A Tester', 'tester@example.org')
    await sandbox.files.write('repo/a.txt', 'one')
    await sandbox.git.add('repo')
    await sandbox.git.commit('repo', 'First')
    await sandbox.git.createBranch('repo', 'side')
    assert.equal((await sandbox.git.branches('repo')).currentBranch, 'side')
  })
)
