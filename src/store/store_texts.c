/* Owns the bound on the texts of all outcomes together. What is dropped is the oldest text; its
 * outcome stays. Runs while nobody else writes, between transactions. */
#include <stdatomic.h>

#include "base/log.h"
#include "store/store_internal.h"

#define TRIM_ROUND 256 /* texts dropped in one transaction: writes wait meanwhile */

void store_set_text_max(struct store *store, uint64_t max_bytes)
{
    atomic_store(&store->text_max, max_bytes);
}

int store_texts_count(struct store *store, struct err *err)
{
    STATEMENT_AUTO sqlite3_stmt *statement = NULL;
    int result = store_statement(&store->writer, SQL_TEXT_SUM, &statement, err);
    if (result != 0)
        return result;
    if (sqlite3_step(statement) != SQLITE_ROW)
        return store_error(&store->writer, "count the texts", err);
    store->text_bytes = (uint64_t)sqlite3_column_int64(statement, 0);
    return 0;
}

/* Finds the oldest text. Returns 1, or 0 when there is none. */
static int find_oldest(struct store *store, char out_id[static STORE_ID_SIZE], uint64_t *out_size,
                       struct err *err)
{
    STATEMENT_AUTO sqlite3_stmt *statement = NULL;
    int result = store_statement(&store->writer, SQL_TEXT_OLDEST, &statement, err);
    if (result != 0)
        return result;
    int status = sqlite3_step(statement);
    if (status == SQLITE_DONE)
        return 0;
    if (status != SQLITE_ROW)
        return store_error(&store->writer, "find the oldest text", err);
    store_column_text(statement, 0, out_id, STORE_ID_SIZE);
    *out_size = (uint64_t)sqlite3_column_int64(statement, 1);
    return 1;
}

/* Drops one text. Returns 1, or 0 when there is none. */
static int drop_oldest(struct store *store, struct err *err)
{
    char id[STORE_ID_SIZE];
    uint64_t size = 0;
    int found = find_oldest(store, id, &size, err);
    if (found <= 0) {
        store->text_bytes = found == 0 ? 0 : store->text_bytes;
        return found;
    }
    STATEMENT_AUTO sqlite3_stmt *statement = NULL;
    int result = store_statement(&store->writer, SQL_TEXT_DROP, &statement, err);
    if (result != 0)
        return result;
    store_bind_text(statement, 1, id);
    result = store_step(&store->writer, statement, err);
    if (result == 0)
        store->text_bytes -= size < store->text_bytes ? size : store->text_bytes;
    return result == 0 ? 1 : result;
}

int store_texts_trim(struct store *store, struct err *err)
{
    uint64_t max_bytes = atomic_load(&store->text_max);
    uint64_t low_bytes = max_bytes - max_bytes / 16; /* so that not every write has to trim */
    if (store->text_bytes <= max_bytes)
        return 0;
    int result = store_texts_count(store, err); /* writes that were undone are counted still */
    if (result == 0)
        result = store_run(store, SQL_BEGIN, err);
    if (result != 0)
        return result;
    int dropped = 0;
    while (store->text_bytes > low_bytes && dropped < TRIM_ROUND) {
        result = drop_oldest(store, err);
        if (result <= 0)
            break;
        dropped++;
    }
    if (result >= 0)
        result = store_run(store, SQL_COMMIT, err);
    if (result < 0 && sqlite3_get_autocommit(store->writer.db) == 0)
        (void)store_run(store, SQL_ROLLBACK, NULL);
    if (dropped > 0 && result == 0)
        log_info("store: %d texts of kept outcomes were dropped: BERTH_KEEP_BYTES", dropped);
    return result == 0 && dropped == TRIM_ROUND ? 1 : result;
}
