"""The SDK's git module, which runs git inside."""


def test_init_commit_branch_and_clone(sandbox):
    git = sandbox.git
    git.init("repo", initial_branch="main")
    git.configure_user("A Tester", "tester@example.org")
    sandbox.files.write("repo/a.txt", "one")
    git.add("repo")
    git.commit("repo", "First")
    assert git.status("repo").is_clean
    git.create_branch("repo", "side")
    assert git.branches("repo").current_branch == "side"
    done = sandbox.commands.run("git clone -q repo copy && cat copy/a.txt")
    assert done.stdout == "one"
